//! Reads tokenizer files and chooses the engine.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokenizers::{DecoderWrapper, PostProcessorWrapper};

use crate::{
    chat_template::ChatTemplates,
    engine::{ByteLevelBpeEngine, ReferenceEngine, TokenizerEngine},
    error::{TokenizeError, guard},
    tokenizer::TokenizerParts,
};

/// A `tokenizer.json` larger than this is no tokenizer; the largest known are under 64 MB.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// Reads a `tokenizer.json`'s text into parts, on the engine that fits it.
pub(crate) fn parts(json: &[u8], templates: ChatTemplates) -> Result<TokenizerParts, TokenizeError> {
    let mut file = parse(json)?;
    let broken = |reason| TokenizeError::InvalidFile { what: "tokenizer.json".into(), reason };
    match guard(broken, || Ok(own_engine(&mut file)))? {
        Own::Taken(engine, post_processor, decoder) => {
            Ok(TokenizerParts { engine, post_processor, decoder, templates })
        }
        Own::Refused(reason) => reference_parts(file, reason, templates),
    }
}

/// The same on the reference, whatever the file.
pub(crate) fn parts_on_reference(json: &[u8]) -> Result<TokenizerParts, TokenizeError> {
    reference_parts(parse(json)?, "it was asked for".to_owned(), ChatTemplates::default())
}

fn parse(json: &[u8]) -> Result<Value, TokenizeError> {
    serde_json::from_slice(json).map_err(|e| TokenizeError::file("tokenizer.json", e))
}

enum Own {
    /// The engine, and the written forms of post-processor and decoder.
    Taken(Box<dyn TokenizerEngine>, Value, Value),
    /// Why none of our engines takes the file.
    Refused(String),
}

/// Offers the file to our own engines. What they do not know, broken files too, is the reference's to judge.
fn own_engine(file: &mut Value) -> Own {
    if !file.is_object() || !(file["version"].is_null() || file["version"] == "1.0") {
        return Own::Refused("version: not 1.0".into());
    }
    let (Ok(post_processor), Ok(decoder)) =
        (rewritten::<PostProcessorWrapper>(&file["post_processor"]), rewritten::<DecoderWrapper>(&file["decoder"]))
    else {
        return Own::Refused("post_processor or decoder: cannot be read".into());
    };
    match ByteLevelBpeEngine::from_json(file) {
        Ok(engine) => Own::Taken(Box::new(engine), post_processor, decoder),
        Err(refusal) => Own::Refused(refusal.to_string()),
    }
}

fn reference_parts(file: Value, reason: String, templates: ChatTemplates) -> Result<TokenizerParts, TokenizeError> {
    let engine = ReferenceEngine::from_json(file, Some(reason))?;
    Ok(TokenizerParts {
        post_processor: written(engine.post_processor())?,
        decoder: written(engine.decoder())?,
        engine: Box::new(engine),
        templates,
    })
}

/// A part of the file, read as the reference reads it and written again, so that every default is filled in.
fn rewritten<T: Serialize + DeserializeOwned>(part: &Value) -> serde_json::Result<Value> {
    serde_json::to_value(Option::<T>::deserialize(part)?)
}

/// A part in the reference's own written form, in which every default is filled in.
fn written<T: Serialize>(part: Option<&T>) -> Result<Value, TokenizeError> {
    serde_json::to_value(part).map_err(|e| TokenizeError::file("tokenizer.json", e))
}

/// The bytes of a `tokenizer.json`.
pub(crate) fn read_tokenizer_json(path: &Path) -> Result<Vec<u8>, TokenizeError> {
    read(path, "tokenizer.json")?.ok_or_else(|| TokenizeError::NotFound {
        what: "tokenizer.json",
        path: path.display().to_string(),
        remedy: missing_remedy(path),
    })
}

fn missing_remedy(path: &Path) -> String {
    let dir = path.parent().unwrap_or(Path::new("."));
    let slow =
        ["tokenizer.model", "vocab.json", "vocab.txt", "tekken.json"].into_iter().find(|f| dir.join(f).is_file());
    match slow {
        Some(slow) => format!(
            "the folder has {slow}, which is another form: load it once with AutoTokenizer of transformers and call save_pretrained, \
             which writes tokenizer.json"
        ),
        None if !dir.exists() => "there is no such folder; check the path of the model".to_owned(),
        None => "copy tokenizer.json from the model's repository into the folder".to_owned(),
    }
}

/// A file's bytes, or `None` if there is no such file.
fn read(path: &Path, what: &str) -> Result<Option<Vec<u8>>, TokenizeError> {
    let describe = |reason: String| TokenizeError::file(format!("{what} at {}", path.display()), reason);
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => return Err(describe("it is a folder".into())),
        Ok(meta) if meta.len() > MAX_FILE_BYTES => return Err(describe(format!("it has {} bytes", meta.len()))),
        Ok(_) => {}
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(e) => return Err(describe(e.to_string())),
    }
    std::fs::read(path).map(Some).map_err(|e| describe(e.to_string()))
}

/// Chat templates and special tokens of a model folder; what is not there is empty.
pub(crate) fn templates(dir: &Path) -> Result<ChatTemplates, TokenizeError> {
    let config = read_json(&dir.join("tokenizer_config.json"), "tokenizer_config.json")?;
    let special = read_json(&dir.join("special_tokens_map.json"), "special_tokens_map.json")?;
    let mut templates = ChatTemplates::default();
    templates.add_special_tokens(&special);
    templates.add_special_tokens(&config);
    templates.add_config(&config);
    // Files win over the configuration, as in transformers.
    for (path, name) in template_files(dir)? {
        if let Some(text) = read(&path, "chat template")? {
            let text = String::from_utf8(text)
                .map_err(|e| TokenizeError::file(format!("chat template at {}", path.display()), e))?;
            templates.add(&name, text);
        }
    }
    Ok(templates)
}

fn template_files(dir: &Path) -> Result<Vec<(PathBuf, String)>, TokenizeError> {
    let mut files = vec![(dir.join("chat_template.jinja"), "default".to_owned())];
    let more = dir.join("additional_chat_templates");
    let entries = match std::fs::read_dir(&more) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(files),
        Err(e) => return Err(TokenizeError::file(more.display().to_string(), e)),
    };
    for entry in entries {
        let path = entry.map_err(|e| TokenizeError::file(more.display().to_string(), e))?.path();
        if path.extension().is_some_and(|e| e == "jinja")
            && let Some(name) = path.file_stem().and_then(|s| s.to_str())
        {
            files.push((path.clone(), name.to_owned()));
        }
    }
    files.sort();
    Ok(files)
}

fn read_json(path: &Path, what: &str) -> Result<Value, TokenizeError> {
    match read(path, what)? {
        Some(bytes) => {
            serde_json::from_slice(&bytes).map_err(|e| TokenizeError::file(format!("{what} at {}", path.display()), e))
        }
        None => Ok(Value::Null),
    }
}
