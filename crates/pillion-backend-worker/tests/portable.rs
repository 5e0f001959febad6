//! What other systems than Linux have, as Linux has it with the feature `portable`.

#![cfg(all(unix, any(feature = "portable", not(target_os = "linux"))))]
#![expect(clippy::unwrap_used, reason = "tests; clippy knows only functions that are marked as such")]

mod common;

use common::fake;
use pillion_backend_worker::{Transport, WorkerBackend};
use pillion_core::{Backend, BackendEvents, ErrorCode};

const TRANSPORT: Transport = Transport::Shm;

#[test]
fn shared_memory_is_refused_before_anything_is_started() {
    let mut backend = WorkerBackend::new(fake());
    let error = backend.start(BackendEvents::new(|event| panic!("{event:?}"))).unwrap_err();
    assert_eq!(error.code(), ErrorCode::BridgeUnavailable, "{error}");
    assert!(
        error.message().contains("shm bridge runs on Linux only") && error.remedy().unwrap().contains("grpc"),
        "{error}"
    );
    assert!(backend.workers().iter().all(|worker| worker.pid == 0));
}
