//! Everything that a worker over gRPC may do wrong: each ends in a typed error that names the cause, within a bounded time, and leaves nothing
//! behind, folders of sockets included. In a file of its own, because what is counted belongs to the whole process.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests; clippy knows only functions that are marked as such")]

mod common;
use std::time::Duration;

use common::{Harness, LONG, fake, options, signal, step};
use pillion_backend_worker::{Attach, RestartOptions, Transport, WorkerOptions};
use pillion_core::{Backend, BackendEvent, Error, ErrorCode};
use pillion_testkit::Holdings;
use rustix::process::Signal;
use serde_json::json;

const TRANSPORT: Transport = Transport::Grpc;

fn hostile(way: &str) -> WorkerOptions {
    let mut o = options("hostile_grpc", json!({}));
    o.env.push(("PILLION_TEST_HOSTILE".to_owned(), way.to_owned()));
    o.supervise.restart = RestartOptions { max_restarts: 0, ..RestartOptions::default() };
    o
}

fn loses(way: &str) -> Error {
    let mut h = Harness::ready(hostile(way));
    // One that misbehaves before it is asked may be gone already.
    let _ = h.backend.submit(&step(1, &[]));
    let error = loop {
        match h.next() {
            BackendEvent::WorkerLost(error) => break error,
            BackendEvent::StepDone(output) => assert_eq!(output.step_id, 1, "{way}"),
            other => panic!("{way}: {other:?}"),
        }
    };
    assert_eq!(h.expect_load_failed(), error);
    h.close(LONG);
    error
}

#[test]
fn every_misdeed_is_named_and_leaves_nothing_behind() {
    // Whatever the first worker makes for good is there before anything is counted.
    Harness::ready(fake()).close(LONG);
    let before = Holdings::settled("the first worker", 0);
    assert_eq!((before.children, before.mappings.len(), before.folders.len()), (0, 0, 0));
    at_the_start(&before);
    closes_each_connection(&before);
    when_ready(&before);
    well_behaved(&before);
}

fn at_the_start(before: &Holdings) {
    let cases: &[(&str, ErrorCode, &str)] = &[
        ("does not listen", ErrorCode::BridgeUnavailable, "no worker can be reached"),
        ("is a file", ErrorCode::BridgeUnavailable, "no worker can be reached"),
        ("silent", ErrorCode::WorkerLost, "no answer came within 10s"),
        ("garbage on the socket", ErrorCode::WorkerLost, "the connection to the worker ended"),
        ("another protocol version", ErrorCode::VersionMismatch, "version 7 of the worker protocol"),
        ("lacks the stream", ErrorCode::VersionMismatch, "lacks a call"),
        ("information that is none", ErrorCode::Internal, "the worker's answer cannot be used"),
    ];
    for &(way, code, part) in cases {
        before.check(way, || {
            let mut h = Harness::start(hostile(way));
            let error = h.expect_load_failed();
            assert_eq!(error.code(), code, "{way}: {error}");
            assert!(error.message().contains(part), "{way}: {error}");
            h.close(LONG);
        });
    }
}

fn closes_each_connection(before: &Holdings) {
    before.check("closes each connection", || {
        let mut h = Harness::start(hostile("closes each connection"));
        let error = h.expect_load_failed();
        // Before the first byte or after it.
        assert!([ErrorCode::BridgeUnavailable, ErrorCode::WorkerLost].contains(&error.code()), "{error}");
        h.close(LONG);
    });
}

fn when_ready(before: &Holdings) {
    let cases = [
        ("answers unasked", "answered step 99"),
        ("answers twice", "which nobody asked for"),
        ("wrong step id", "answered step 77 in place of step 1"),
        ("truncated record", "its header says"),
        ("record of another version", "a step record of version 9"),
        ("no protobuf", "the worker's answer cannot be used"),
        ("empty reply", "no answer in it"),
        ("too long", "the worker's answer cannot be used"),
        ("message with too many probabilities", "2 log probabilities for 0 tokens"),
        ("refuses the stream", "this worker is tired"),
        ("aborts the stream", "no more"),
        ("ends the stream", "the worker ended the stream of steps"),
    ];
    for (way, part) in cases {
        before.check(way, || {
            let error = loses(way);
            assert_eq!(error.code(), ErrorCode::WorkerLost, "{way}: {error}");
            assert!(error.message().contains(part), "{way}: {error}");
        });
    }
    before.check("an error that is none", || {
        let mut h = Harness::ready(hostile("message with an error that is none"));
        h.backend.submit(&step(1, &[])).unwrap();
        let error = h.expect_step().error.unwrap();
        assert!(error.code() == ErrorCode::Internal && error.message().contains("{]"), "{error}");
        h.close(Duration::ZERO);
    });
}

fn well_behaved(before: &Holdings) {
    before.check("steps, then close", || {
        let mut h = Harness::ready(fake());
        (1..50).for_each(|id| h.round_trip(id));
        // Connected, the socket has no name any more.
        assert_eq!(Holdings::now().folders.len(), 0);
        h.close(LONG);
    });
    before.check("killed and replaced, many times", || {
        let mut o = fake();
        o.supervise.restart.max_restarts = 20;
        let mut h = Harness::ready(o);
        for id in 1..5 {
            h.round_trip(id);
            h.backend.submit(&step(100 + id, &[3])).unwrap();
            signal(h.pid(), Signal::KILL);
            h.expect_lost();
            h.expect_ready();
        }
        h.close(LONG);
    });
    before.check("dropped", || drop(Harness::ready(fake())));
    before.check("a load that raises", || {
        let mut h = Harness::start(options("fake_worker", json!({ "load": "raise" })));
        h.expect_load_failed();
        h.close(LONG);
    });
    before.check("nobody to attach to", || {
        let folder = tempfile::tempdir().unwrap();
        let attach = Some(Attach { socket: folder.path().join("s"), start: false });
        let mut h = Harness::start(WorkerOptions { attach, ..fake() });
        h.expect_load_failed();
        h.backend_closed();
    });
    before.check("a Python without grpcio", || {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("grpc.py"), "raise ModuleNotFoundError('not here', name='grpc')").unwrap();
        let mut o = fake();
        // Before the environment's own packages.
        o.python_path.push(folder.path().to_owned());
        let mut h = Harness::start(o);
        let error = h.expect_load_failed();
        assert_eq!(error.code(), ErrorCode::PythonPackageMissing, "{error}");
        assert!(error.message().contains("grpcio"), "{error}");
        assert!(error.remedy().unwrap().contains("pip install 'pillion[grpc]'"), "{error}");
        h.close(LONG);
    });
}
