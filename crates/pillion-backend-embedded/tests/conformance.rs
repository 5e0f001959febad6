//! The cases that every bridge passes, with Python in this process: each in a process of its own, since a process has one interpreter.
#![cfg(unix)]

mod support;

use pillion_backend_embedded::{EmbeddedBackend, EmbeddedOptions};
use pillion_core::Backend;
use pillion_testkit::conformance::{Bridge, Model, Subject, python_path};

struct Embedded;

impl Subject for Embedded {
    fn bridge(&self) -> Bridge {
        Bridge::Embedded
    }

    fn backend(&self, model: &Model) -> Box<dyn Backend> {
        Box::new(EmbeddedBackend::new(EmbeddedOptions {
            python: None,
            python_path: python_path(),
            load: model.load_config(),
            bridge_library: None,
        }))
    }

    fn max_record_bytes(&self) -> Option<usize> {
        None
    }

    fn isolated(&self, case: &str, run: &dyn Fn()) {
        support::in_own_process(case, run);
    }
}

pillion_testkit::conformance!(Embedded);
