//! The engines, each behind one function: text to ids, no special tokens added.

use std::{error::Error, io::Write};

use pillion_tokenize::{EncodeOptions, Tokenizer};

pub type Failure = Box<dyn Error + Send + Sync>;
pub type Encode = dyn FnMut(&str) -> Result<Vec<u32>, Failure>;

pub struct Engine {
    pub name: &'static str,
    pub load: fn(&str) -> Result<Box<Encode>, Failure>,
}

pub const ENGINES: [Engine; 3] = [
    Engine { name: "pillion", load: pillion },
    Engine { name: "fastokens 0.3.5", load: fastokens },
    Engine { name: "tokenizers 1.0.0-rc.3", load: tokenizers_rc },
];

fn pillion(json: &str) -> Result<Box<Encode>, Failure> {
    let tokenizer = Tokenizer::from_json(json.as_bytes())?;
    let options = EncodeOptions { add_special_tokens: false, ..EncodeOptions::default() };
    Ok(Box::new(move |text| Ok(tokenizer.encode(text, &options)?.ids)))
}

fn fastokens(json: &str) -> Result<Box<Encode>, Failure> {
    // It reads files only.
    let path = std::env::temp_dir().join(format!("pillion-bench-{}.json", std::process::id()));
    std::fs::File::create(&path)?.write_all(json.as_bytes())?;
    let tokenizer = fastokens::Tokenizer::from_file(&path);
    std::fs::remove_file(&path)?;
    let mut tokenizer = tokenizer?;
    tokenizer.set_padding(None);
    tokenizer.set_truncation(None);
    Ok(Box::new(move |text| Ok(tokenizer.encode_with_special_tokens(text, false)?)))
}

fn tokenizers_rc(json: &str) -> Result<Box<Encode>, Failure> {
    use tokenizers::pipeline::{EncodeOptions, Override, PipelineToken};

    let tokenizer = tokenizers::from_json(&tokenizers::canonicalize_str(json)?)?;
    let options = EncodeOptions {
        add_special_tokens: false,
        encode_special_tokens: false,
        padding: Override::Off,
        truncation: Override::Off,
    };
    let mut tokens: Vec<PipelineToken> = Vec::new();
    Ok(Box::new(move |text| {
        tokens.clear();
        tokenizer.encode_into(text, &options, &mut tokens)?;
        Ok(tokens.iter().map(|token| token.id()).collect())
    }))
}
