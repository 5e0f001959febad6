//! What `Engine.load` asks for, and where that is on this machine. Nothing is downloaded.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use pillion_core::{Error, ErrorCode, Limits, Result, Stage};
use serde::Deserialize;
use serde_json::Value;

/// The options of `Engine.load`, as `src/engine.ts` writes them.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct LoadOptions {
    model: Value,
    pub(crate) python: Option<String>,
    pub(crate) bridge: Option<String>,
    pub(crate) workers: Option<Workers>,
    pub(crate) start_workers: Option<bool>,
    pub(crate) device: Option<String>,
    pub(crate) dtype: Option<String>,
    pub(crate) trust_remote_code: Option<bool>,
    #[serde(default)]
    pub(crate) limits: Limits,
    #[serde(default)]
    pub(crate) threads: Threads,
    /// The folder that holds our Python package.
    pub(crate) python_folder: PathBuf,
}

/// How many workers, or which.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Workers {
    Count(u32),
    At(Vec<String>),
}

/// How many threads to use.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Threads {
    pub(crate) tokenizer: Option<u32>,
    pub(crate) torch: Option<u32>,
}

/// A model that is there.
#[derive(Debug, PartialEq)]
pub(crate) enum Model {
    Echo { step_time: Duration },
    Pretrained { folder: PathBuf },
    Class { spec: String, options: Value },
}

impl LoadOptions {
    pub(crate) fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(|e| {
            Error::new(ErrorCode::InvalidArgument, format!("the options of Engine.load() cannot be used: {e}"))
                .with_stage(Stage::Load)
        })
    }

    /// The name for `status()` until the model tells its own.
    pub(crate) fn model_name(&self) -> String {
        match &self.model {
            Value::String(name) => name.clone(),
            model => match model.get("class").and_then(Value::as_str) {
                Some(class) => class.rsplit(':').next().unwrap_or(class).to_owned(),
                None => "echo".to_owned(),
            },
        }
    }

    /// Finds the model. Reads the file system.
    pub(crate) fn find_model(&self) -> Result<Model> {
        self.find().map_err(|error| error.with_stage(Stage::Load))
    }

    fn find(&self) -> Result<Model> {
        if let Value::String(name) = &self.model {
            let folder = find_folder(name)?;
            return if folder.join("config.json").is_file() {
                Ok(Model::Pretrained { folder })
            } else {
                Err(Error::new(ErrorCode::ModelNotFound, format!("the folder {} has no config.json", folder.display()))
                    .with_param("model")
                    .with_remedy("name the folder that holds config.json and the safetensors weights"))
            };
        }
        if let Some(echo) = self.model.get("echo") {
            let step_ms = echo.get("stepMs").and_then(Value::as_f64).unwrap_or(0.0);
            let step_time = Duration::try_from_secs_f64(step_ms / 1000.0)
                .map_err(|_| Error::invalid("model.echo.stepMs", "a number of milliseconds from 0", step_ms))?;
            return Ok(Model::Echo { step_time });
        }
        if let Some(class) = self.model.get("class").and_then(Value::as_str) {
            let options = self.model.get("options").cloned().unwrap_or_default();
            return Ok(Model::Class { spec: find_class(class)?, options });
        }
        let expected = "a model's folder, { class: 'path/to/file.py:Name' } or { echo: {} }";
        Err(Error::invalid("model", expected, &self.model).with_param("model"))
    }
}

/// A class by its full name. A file's path becomes absolute; a module is looked for by Python.
fn find_class(class: &str) -> Result<String> {
    let (place, name) =
        class.rsplit_once(':').filter(|(place, name)| !place.is_empty() && !name.is_empty()).ok_or_else(|| {
            let expected = "'path/to/file.py:Name' or 'package.module:Name'";
            Error::invalid("model.class", expected, format_args!("'{class}'"))
        })?;
    if Path::new(place).extension().is_none_or(|extension| extension != "py") {
        return Ok(class.to_owned());
    }
    let path = std::path::absolute(place).unwrap_or_else(|_| PathBuf::from(place));
    if !path.is_file() {
        return Err(Error::new(ErrorCode::ModelNotFound, format!("there is no file {}", path.display()))
            .with_param("model.class")
            .with_remedy("a relative path begins at the working directory"));
    }
    Ok(format!("{}:{name}", path.display()))
}

/// A model's folder: the name itself, or its newest snapshot in the local Hugging Face cache.
pub(crate) fn find_folder(name: &str) -> Result<PathBuf> {
    let path = Path::new(name);
    if path.is_dir() {
        return fs::canonicalize(path).or_else(|_| std::path::absolute(path)).map_err(|e| {
            Error::new(ErrorCode::ModelNotFound, format!("the folder {name} cannot be used")).with_cause(e)
        });
    }
    let cached = is_hub_id(name).then(|| hub_cache().and_then(|cache| find_snapshot(&cache, name))).flatten();
    cached.ok_or_else(|| {
        let error =
            Error::new(ErrorCode::ModelNotFound, format!("there is no model folder {name}")).with_param("model");
        if is_hub_id(name) {
            error.with_remedy(format!(
                "nothing is downloaded: pass a folder, or fetch it first with `huggingface-cli download {name}`"
            ))
        } else {
            error.with_remedy("pass the folder that holds config.json and the safetensors weights")
        }
    })
}

/// `org/name`, or a bare name of the hub's first models; not a path that happens to be missing.
fn is_hub_id(name: &str) -> bool {
    let part = |p: &str| {
        !p.is_empty() && !p.starts_with('.') && p.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    match name.split_once('/') {
        Some((org, model)) => part(org) && part(model),
        None => part(name),
    }
}

/// The hub cache's folder, by the same variables as `huggingface_hub`.
fn hub_cache() -> Option<PathBuf> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("HF_HUB_CACHE")
        .or_else(|| variable("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
        .or_else(|| env::home_dir().map(|home| home.join(".cache/huggingface/hub")))
}

/// The snapshot that `main` points to, else any one that there is.
fn find_snapshot(cache: &Path, id: &str) -> Option<PathBuf> {
    let repository = cache.join(format!("models--{}", id.replace('/', "--")));
    let snapshots = repository.join("snapshots");
    let main = fs::read_to_string(repository.join("refs/main")).ok();
    if let Some(folder) = main.map(|commit| snapshots.join(commit.trim())).filter(|folder| folder.is_dir()) {
        return Some(folder);
    }
    let folders = fs::read_dir(snapshots).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    folders.filter(|path| path.is_dir()).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(json: &str) -> LoadOptions {
        LoadOptions::parse(&format!(r#"{{"model":{json},"pythonFolder":"python"}}"#)).unwrap()
    }

    fn refused(json: &str) -> Error {
        options(json).find_model().unwrap_err()
    }

    #[test]
    fn echo_takes_its_step_time() {
        let model = options(r#"{"echo":{"stepMs":1.5}}"#).find_model().unwrap();
        assert_eq!(model, Model::Echo { step_time: Duration::from_micros(1500) });
        assert_eq!(refused(r#"{"echo":{"stepMs":-1}}"#).code(), ErrorCode::InvalidArgument);
    }

    #[test]
    fn what_is_no_model_says_what_is_missing() {
        assert_eq!(refused("7").code(), ErrorCode::InvalidArgument);
        let missing = refused(r#""./no/such/folder""#);
        assert_eq!(missing.code(), ErrorCode::ModelNotFound);
        assert!(missing.remedy().is_some_and(|r| r.contains("config.json")), "{missing}");
        let hub = refused(r#""no-such-org/no-such-model""#);
        assert!(hub.remedy().is_some_and(|r| r.contains("nothing is downloaded")), "{hub}");
    }

    #[test]
    fn a_class_is_named_by_its_file_or_its_module() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("app.py");
        let spec = format!("{}:M", file.display());
        let json = serde_json::json!({"class": spec, "options": {"a": 1}}).to_string();
        let missing = refused(&json);
        assert_eq!((missing.code(), missing.param()), (ErrorCode::ModelNotFound, Some("model.class")));
        fs::write(&file, "").unwrap();
        let found = Model::Class { spec, options: serde_json::json!({"a": 1}) };
        assert_eq!((options(&json).find_model().unwrap(), options(&json).model_name()), (found, "M".to_owned()));
        let module = Model::Class { spec: "app.models:M".into(), options: Value::Null };
        assert_eq!(options(r#"{"class":"app.models:M"}"#).find_model().unwrap(), module);
        for bad in ["app.py", ":M", "app.py:", ""] {
            let error = refused(&serde_json::json!({ "class": bad }).to_string());
            assert_eq!((error.code(), error.param()), (ErrorCode::InvalidArgument, Some("model.class")), "{bad}");
        }
    }

    #[test]
    fn a_folder_without_a_config_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let json = serde_json::to_string(&folder.path().to_string_lossy()).unwrap();
        let error = refused(&json);
        assert_eq!(error.code(), ErrorCode::ModelNotFound);
        assert!(error.message().contains("config.json"));
        fs::write(folder.path().join("config.json"), "{}").unwrap();
        assert!(matches!(options(&json).find_model(), Ok(Model::Pretrained { .. })));
    }

    #[test]
    fn a_snapshot_is_found_by_its_ref_first() {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("models--org--name");
        for commit in ["aaa", "bbb"] {
            fs::create_dir_all(repository.join("snapshots").join(commit)).unwrap();
        }
        assert_eq!(find_snapshot(cache.path(), "org/name"), Some(repository.join("snapshots/bbb")));
        fs::create_dir_all(repository.join("refs")).unwrap();
        fs::write(repository.join("refs/main"), "aaa\n").unwrap();
        assert_eq!(find_snapshot(cache.path(), "org/name"), Some(repository.join("snapshots/aaa")));
        assert_eq!(find_snapshot(cache.path(), "org/other"), None);
    }

    #[test]
    fn hub_ids_are_told_from_paths() {
        for id in ["gpt2", "org/name", "HuggingFaceTB/SmolLM2-135M-Instruct"] {
            assert!(is_hub_id(id), "{id}");
        }
        for path in ["./gpt2", "../x", "/abs/path", "a/b/c", "", "org/", "~/x", "a b"] {
            assert!(!is_hub_id(path), "{path}");
        }
    }
}
