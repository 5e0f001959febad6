//! What `pillion doctor` asks of the native side. `src/cli/doctor.ts` is the other side.

use std::{thread, time::Duration};

use napi::{Env, bindgen_prelude::Object};
use napi_derive::napi;
use pillion_backend_embedded::{SurveyOptions, survey};
use pillion_core::Error;
use serde::Deserialize;

use crate::{
    error::{on_thread, to_js},
    options::bad_json,
};

/// This binary, and what it has to run on.
#[napi(object)]
pub struct NativeAbout {
    /// What it was built for, as Rust names it.
    pub target: String,
    /// Whether it was built with optimisation.
    pub optimized: bool,
    /// Cores that this process may use, by affinity and by the cgroup's quota.
    pub cores: u32,
}

/// This binary, and what it has to run on.
#[napi]
pub fn about() -> NativeAbout {
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    NativeAbout { target: env!("PILLION_TARGET").to_owned(), optimized: !cfg!(debug_assertions), cores }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SurveyJson {
    python: Option<String>,
    packages: Vec<String>,
    timeout_ms: u32,
}

/// Asks every Python that could be taken what it is; `options` and the answer are JSON. Takes two time-outs at most.
#[napi(catch_unwind, ts_return_type = "Promise<string>")]
pub fn survey_pythons(env: &Env, options: String) -> napi::Result<Object<'_>> {
    let SurveyJson { python, packages, timeout_ms } =
        serde_json::from_str(&options).map_err(|e| to_js(bad_json("the options", &e)))?;
    let options = SurveyOptions { python, packages, timeout: Duration::from_millis(timeout_ms.into()) };
    on_thread(env, "pillion-survey", move || {
        serde_json::to_string(&survey(&options))
            .map_err(|e| Error::internal(format!("the survey cannot be written: {e}")))
    })
}
