//! The cases that every bridge passes, with the echo model.

use pillion_backend_echo::{EchoBackend, EchoOptions};
use pillion_core::Backend;
use pillion_testkit::conformance::{Bridge, Model, Subject};

struct Echo;

impl Subject for Echo {
    fn bridge(&self) -> Bridge {
        Bridge::Echo
    }

    fn backend(&self, _: &Model) -> Box<dyn Backend> {
        Box::new(EchoBackend::new(EchoOptions::default()))
    }

    fn max_record_bytes(&self) -> Option<usize> {
        None
    }
}

pillion_testkit::conformance!(Echo);
