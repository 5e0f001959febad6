//! Everything that a worker may do wrong, one after the other: each ends in a typed error that names the cause, and afterwards nothing of
//! it is left. In a file of its own, because what is counted belongs to the whole process.

#![cfg(all(target_os = "linux", not(feature = "portable")))]
#![expect(clippy::unwrap_used, reason = "tests; clippy knows only functions that are marked as such")]

mod common;

const TRANSPORT: pillion_backend_worker::Transport = pillion_backend_worker::Transport::Shm;

use std::time::Duration;

use common::{Harness, LONG, fake, options, signal, step};
use pillion_backend_worker::{RestartOptions, WorkerOptions};
use pillion_core::{
    Backend, BackendEvent, Error, ErrorCode,
    forward::{ForwardBatch, ForwardItem},
};
use pillion_testkit::Holdings;
use rustix::process::Signal;
use serde_json::json;

fn hostile(when: &str, way: &str) -> WorkerOptions {
    let mut o = options("hostile_worker", json!({}));
    o.env.push(("PILLION_TEST_WHEN".to_owned(), when.to_owned()));
    o.env.push(("PILLION_TEST_HOSTILE".to_owned(), way.to_owned()));
    o.supervise.restart = RestartOptions { max_restarts: 0, ..RestartOptions::default() };
    o
}

fn load_fails(way: &str, timeout: Duration) -> Error {
    let mut o = hostile("start", way);
    o.supervise.start_timeout = timeout;
    let mut h = Harness::start(o);
    let error = h.expect_load_failed();
    h.close(LONG);
    error
}

fn loses(way: &str) -> Error {
    let mut h = Harness::ready(hostile("ready", way));
    // One that answers unasked might be asked just in time to be right; others that misbehave before may be gone already.
    let _ = match way {
        "answers unasked" => Ok(()),
        "tensor outside the pool" => {
            let items = vec![ForwardItem { json: "null".into(), tensors: Vec::new() }];
            h.backend.submit_forward(&ForwardBatch { forward_id: 1, items, ..ForwardBatch::default() })
        }
        _ => h.backend.submit(&step(1, &[])),
    };
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
    assert_eq!((before.children, before.mappings.len()), (0, 0));
    at_the_start(&before);
    when_ready(&before);
    well_behaved(&before);
}

fn at_the_start(before: &Holdings) {
    const SHORT: Duration = Duration::from_secs(1);
    let cases: &[(&str, ErrorCode, &str)] = &[
        ("exit", ErrorCode::WorkerLost, "exit code 4"),
        ("noise", ErrorCode::Internal, "garbage!"),
        ("oversized frame", ErrorCode::Internal, "4294967295 bytes"),
        ("half a frame", ErrorCode::WorkerLost, "exit code 5"),
        ("another transport version", ErrorCode::VersionMismatch, "control protocol version is 2"),
        ("another step version", ErrorCode::VersionMismatch, "step record version is 7"),
        ("another package version", ErrorCode::VersionMismatch, "package version is 0.0.1"),
        ("hello twice", ErrorCode::Internal, "Hello"),
        ("ready before hello", ErrorCode::Internal, "Ready"),
        ("ready of another version", ErrorCode::VersionMismatch, "step record version is 3"),
        ("ready without information", ErrorCode::Internal, "missing field `info`"),
    ];
    for &(way, code, part) in cases {
        before.check(way, || {
            let when = if way.starts_with("ready ") && way != "ready before hello" { "ready" } else { "start" };
            let mut h = Harness::start(hostile(when, way));
            let error = h.expect_load_failed();
            assert_eq!(error.code(), code, "{way}: {error}");
            assert!(error.message().contains(part), "{way}: {error}");
            assert!(error.worker().is_some(), "{way}");
            h.close(LONG);
        });
    }
    before.check("silent", || {
        let error = load_fails("silent", SHORT);
        assert!(error.message().contains("was not ready within 1s"), "{error}");
    });
    before.check("close the socket and stay", || {
        let error = load_fails("close the socket and stay", LONG);
        assert!(error.message().contains("the process went on"), "{error}");
    });
}

fn when_ready(before: &Holdings) {
    let cases = [
        ("answers unasked", "a record of kind 0"),
        ("noise when ready", "a control message cannot be read"),
        ("close the socket when ready", "the process went on"),
        ("entry of another number", "record 17 where record 0 was expected"),
        ("entry of another kind", "a record of kind 9"),
        ("the end", "ended its answers"),
        ("record longer than its slot", "a record of 1048577 bytes"),
        ("record of 4 GiB", "a record of 4294967295 bytes"),
        ("record outside", "a record at byte"),
        ("record far outside", "a record at byte 18446744073709551608"),
        ("truncated record", "its header says"),
        ("record of another version", "a step record of version 9"),
        ("another kind", "kind 4 where 3 was expected"),
        ("tensor outside the pool", "in place 300 lies outside"),
        ("wrong step id", "answered step 77 in place of step 1"),
        ("rings too often", "the ring holds record 0 where record 1"),
        ("rings without end", "the ring holds record 0 where record 1"),
        ("cuts the ring", "a record of kind 9"),
    ];
    for (way, part) in cases {
        before.check(way, || {
            let error = loses(way);
            assert_eq!(error.code(), ErrorCode::WorkerLost, "{way}: {error}");
            assert!(error.message().contains(part), "{way}: {error}");
            assert!(error.message().starts_with("the worker was stopped: "), "{way}: {error}");
        });
    }
    before.check("fills our bell", || {
        let mut o = hostile("ready", "fills our bell");
        o.supervise.heartbeat = Duration::from_millis(50);
        let mut h = Harness::ready(o);
        h.backend.submit(&step(1, &[])).unwrap();
        let error = loop {
            match h.next() {
                // This waits for room in the counter, or is refused, but not for ever.
                BackendEvent::StepDone(_) => drop(h.backend.submit(&step(2, &[]))),
                BackendEvent::WorkerLost(error) => break error,
                other => panic!("{other:?}"),
            }
        };
        assert!(error.message().contains("filled its own doorbell"), "{error}");
        assert_eq!(h.expect_load_failed(), error);
        h.close(LONG);
    });
}

fn well_behaved(before: &Holdings) {
    before.check("steps, then close", || {
        let mut h = Harness::ready(fake());
        (1..50).for_each(|id| h.round_trip(id));
        h.close(LONG);
    });
    before.check("killed and replaced, many times", || {
        let mut o = fake();
        o.supervise.restart.max_restarts = 20;
        let mut h = Harness::ready(o);
        for id in 1..8 {
            h.round_trip(id);
            h.backend.submit(&step(100 + id, &[3])).unwrap();
            signal(h.pid(), Signal::KILL);
            h.expect_lost();
            h.expect_ready();
        }
        h.close(LONG);
    });
    before.check("dropped", || drop(Harness::ready(fake())));
    before.check("nothing lies in /dev/shm, so it may be full or missing", || {
        let h = Harness::ready(fake());
        for process in ["self".to_owned(), h.pid().to_string()] {
            let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
            assert!(maps.contains("/memfd:pillion-steps") && !maps.contains("/dev/shm"), "{process}: {maps}");
        }
        h.close(LONG);
    });
    before.check("a grandchild", || {
        let h = Harness::ready(options("fake_worker", json!({ "load": "child" })));
        h.close(LONG);
    });
    before.check("a load that raises", || {
        let mut h = Harness::start(options("fake_worker", json!({ "load": "raise" })));
        h.expect_load_failed();
        h.close(LONG);
    });
    before.check("no interpreter", || {
        let mut h = Harness::start(WorkerOptions { python: "/nowhere/python".into(), ..fake() });
        h.expect_load_failed();
        h.close(LONG);
    });
}
