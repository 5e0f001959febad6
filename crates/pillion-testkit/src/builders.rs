//! Short ways to make the values that most tests need.

use pillion_core::{
    GenerateRequest, GenerationDefaults, ModelInfo, Prompt, SamplingOptions, VERSION, WorkerInfo, step,
};

/// Begins a request with `text` as its prompt.
pub fn generate(text: &str) -> GenerateRequestBuilder {
    GenerateRequestBuilder(GenerateRequest {
        request_id: format!("test-{text:.20}"),
        prompt: Prompt::Text { text: text.to_owned(), add_special_tokens: true },
        sampling: SamplingOptions::default(),
    })
}

/// A request in the making.
#[derive(Clone, Debug)]
pub struct GenerateRequestBuilder(GenerateRequest);

#[expect(missing_docs, reason = "each sets the option of its name")]
impl GenerateRequestBuilder {
    #[must_use]
    pub fn ids(mut self, ids: &[u32]) -> Self {
        self.0.prompt = Prompt::Ids(ids.to_vec());
        self
    }

    #[must_use]
    pub fn request_id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.0.request_id);
        self
    }

    #[must_use]
    pub fn sampling(mut self, set: impl FnOnce(&mut SamplingOptions)) -> Self {
        set(&mut self.0.sampling);
        self
    }

    #[must_use]
    pub fn max_tokens(self, n: u32) -> Self {
        self.sampling(|s| s.max_tokens = Some(f64::from(n)))
    }

    #[must_use]
    pub fn stop(self, stop: &[&str]) -> Self {
        self.sampling(|s| s.stop = stop.iter().map(|s| (*s).to_owned()).collect())
    }

    pub fn build(self) -> GenerateRequest {
        self.0
    }
}

/// A worker that says it is ready with a byte-sized model of 4 slots and 1,000 tokens of context.
pub fn worker_info() -> WorkerInfo {
    WorkerInfo {
        version: VERSION.to_owned(),
        step_version: step::VERSION,
        pid: std::process::id(),
        python: None,
        model: ModelInfo {
            name: "scripted".to_owned(),
            tasks: vec!["generate".to_owned()],
            tier: None,
            tier_reason: None,
            dtype: None,
            device: None,
            max_context: 1000,
            vocab_size: 257,
            num_slots: 4,
            kv_tokens: 4000,
            eos_token_ids: vec![256],
            defaults: GenerationDefaults::default(),
        },
    }
}
