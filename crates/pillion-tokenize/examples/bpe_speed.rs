//! Times the byte-level BPE engine on documents of 2,000 characters: load, first encode, novel text, text seen before.
//!
//! `cargo run --release -p pillion-tokenize --example bpe_speed -- TOKENIZER_JSON TEXT_FILE [--all]`
//!
//! "Novel" is text after 0.6 MB of other text, each document once; "warm" the same documents again. `--all` takes the
//! whole file, else the first 24 MB of it. Each figure is the best of five.

#![allow(clippy::print_stdout, reason = "figures go to standard output")]

use std::error::Error;
use std::time::{Duration, Instant};

use pillion_tokenize::bpe::{ByteLevelBpe, Encoded, ParseSpecial, Scratch};

const DOCUMENT_CHARS: usize = 2_000;
const WARM_UP_BYTES: usize = 600_000;
const MAX_BYTES: usize = 24_000_000;
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [tokenizer, text, options @ ..] = &arguments[..] else {
        return Err("give a tokenizer.json and a text file".into());
    };
    let file = serde_json::from_slice(&std::fs::read(tokenizer)?)?;
    let start = Instant::now();
    let tokenizer = ByteLevelBpe::from_json(&file)?;
    let load = start.elapsed();
    let text = std::fs::read_to_string(text)?;
    let limit = if options.iter().any(|option| option == "--all") { text.len() } else { text.len().min(MAX_BYTES) };
    let end = (0..=limit).rev().find(|&end| text.is_char_boundary(end)).unwrap_or_default();
    let documents = documents(&text[..end]);
    let warm_up = documents.iter().scan(0, |seen, document| {
        *seen += document.len();
        (*seen < WARM_UP_BYTES).then_some(())
    });
    let (first, rest) = documents.split_at(warm_up.count().min(documents.len() / 2));

    let mut timer = Timer { tokenizer, scratch: Scratch::new(), ids: Vec::new() };
    let first_encode = timer.time(&documents[..1]);
    let novel = timer.novel(&file, first, rest)?;
    let warm = timer.best(rest);
    let sizes = rest.iter().map(|document| document.len()).sum::<usize>();
    println!("load {:.1} ms, first encode {:.0} us", load.as_secs_f64() * 1e3, first_encode.as_secs_f64() * 1e6);
    #[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
    let rate = |time: Duration| sizes as f64 / time.as_secs_f64() / 1e6;
    println!("{sizes} bytes: novel {:.0} MB/s, warm {:.0} MB/s", rate(novel), rate(warm));
    println!("short calls: {:.0} ns for 100 characters, warm", timer.short(rest).as_secs_f64() * 1e9);
    println!("with offsets: {:.0} MB/s", rate(timer.offsets(rest)?));
    Ok(())
}

fn documents(text: &str) -> Vec<&str> {
    let mut starts: Vec<usize> = text.char_indices().map(|(at, _)| at).step_by(DOCUMENT_CHARS).collect();
    starts.push(text.len());
    starts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

struct Timer {
    tokenizer: ByteLevelBpe,
    scratch: Scratch,
    ids: Vec<u32>,
}

impl Timer {
    fn time(&mut self, documents: &[&str]) -> Duration {
        let start = Instant::now();
        for document in documents {
            self.encode(document);
        }
        start.elapsed()
    }

    /// A tokenizer knows the words that it has met, so each round has one of its own.
    fn novel(&mut self, file: &serde_json::Value, first: &[&str], rest: &[&str]) -> Result<Duration, Box<dyn Error>> {
        let mut best = Duration::MAX;
        for _ in 0..ROUNDS {
            self.tokenizer = ByteLevelBpe::from_json(file)?;
            self.time(first);
            best = best.min(self.time(rest));
        }
        Ok(best)
    }

    fn encode(&mut self, text: &str) {
        self.ids.clear();
        let encoded = self.tokenizer.encode_into(text, ParseSpecial::All, &mut self.scratch, &mut self.ids);
        encoded.expect("a document is short: this is a bug");
        std::hint::black_box(&self.ids);
    }

    fn best(&mut self, documents: &[&str]) -> Duration {
        (0..ROUNDS).map(|_| self.time(documents)).min().unwrap_or_default()
    }

    /// The time of one call with 100 characters.
    fn short(&mut self, documents: &[&str]) -> Duration {
        let texts = documents.iter().take(500);
        let texts: Vec<&str> =
            texts.map(|text| &text[..text.char_indices().nth(100).map_or(text.len(), |(at, _)| at)]).collect();
        self.best(&texts) / texts.len().max(1) as u32
    }

    fn offsets(&mut self, documents: &[&str]) -> Result<Duration, Box<dyn Error>> {
        let mut out = Encoded::default();
        let start = Instant::now();
        for document in documents {
            self.tokenizer.encode_with_offsets(document, ParseSpecial::All, &mut self.scratch, &mut out)?;
        }
        Ok(start.elapsed())
    }
}
