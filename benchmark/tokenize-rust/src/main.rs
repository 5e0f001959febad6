//! Times one thread on documents of 2,000 characters: ours, `fastokens`, and the release candidate of `tokenizers` 1.0.
//!
//! `npm run bench -- tokenize-rust`, or `cargo run --release -- TOKENIZER_JSON TEXT_FILE ROUNDS`
//!
//! "Novel" is text after 0.6 MB of other text with a tokenizer that was just loaded, each document once; "warm" the same
//! documents again. The engines take turns; the clock is the thread's own time on the processor. Ids are compared first.

mod engines;

use std::{fs, hint::black_box, time::Duration};

use engines::{ENGINES, Encode, Failure};

const DOCUMENT_CHARS: usize = 2_000;
const WARM_UP_BYTES: usize = 600_000;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [tokenizer, text, rounds] = &arguments[..] else {
        return Err("give a tokenizer.json, a text file and the number of rounds".into());
    };
    let json = fs::read_to_string(tokenizer)?;
    let text = fs::read_to_string(text)?;
    let documents = documents(&text);
    let warm_up = documents.iter().scan(0, |seen, document| {
        *seen += document.len();
        (*seen < WARM_UP_BYTES).then_some(())
    });
    let (first, rest) = documents.split_at(warm_up.count().min(documents.len() / 2));
    let bytes: usize = rest.iter().map(|document| document.len()).sum();

    let expected = all_ids((ENGINES[0].load)(&json)?.as_mut(), &documents)?;
    for engine in &ENGINES[1..] {
        let ids = all_ids((engine.load)(&json)?.as_mut(), &documents)?;
        let differing = ids.iter().zip(&expected).filter(|(ids, expected)| ids != expected).count();
        println!("{{\"engine\":{:?},\"differing\":{differing},\"of\":{}}}", engine.name, documents.len());
    }
    for round in 0..rounds.parse()? {
        for at in 0..ENGINES.len() {
            // Another begins each round.
            let engine = &ENGINES[(at + round) % ENGINES.len()];
            let mut encode = (engine.load)(&json)?;
            time(encode.as_mut(), first)?;
            let novel = time(encode.as_mut(), rest)?;
            let warm = time(encode.as_mut(), rest)?;
            #[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
            let rate = |time: Duration| bytes as f64 / time.as_secs_f64() / 1e6;
            println!(
                "{{\"engine\":{:?},\"round\":{round},\"novel\":{:.2},\"warm\":{:.2}}}",
                engine.name,
                rate(novel),
                rate(warm)
            );
        }
    }
    Ok(())
}

fn documents(text: &str) -> Vec<&str> {
    let mut starts: Vec<usize> = text.char_indices().map(|(at, _)| at).step_by(DOCUMENT_CHARS).collect();
    starts.push(text.len());
    starts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

fn all_ids(encode: &mut Encode, documents: &[&str]) -> Result<Vec<Vec<u32>>, Failure> {
    documents.iter().map(|document| encode(document)).collect()
}

fn time(encode: &mut Encode, documents: &[&str]) -> Result<Duration, Failure> {
    let start = thread_time();
    for document in documents {
        black_box(encode(document)?);
    }
    Ok(thread_time() - start)
}

fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
