//! Inputs and results of classes.

use pillion_core::{
    Error, ErrorCode, LogLevel, Stage,
    forward::{Dtype, ForwardBatch, ForwardItem, Tensor},
};

use super::{
    Model, Subject,
    bench::{Bench, enters, inputs_of, item},
};

const DTYPES: [Dtype; 11] = [
    Dtype::Uint8,
    Dtype::Int8,
    Dtype::Uint16,
    Dtype::Int16,
    Dtype::Uint32,
    Dtype::Int32,
    Dtype::Uint64,
    Dtype::Int64,
    Dtype::Float32,
    Dtype::Float64,
    Dtype::Bool,
];

pub(super) fn inputs_are_answered_each_in_order(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::Class("Echo"));
    let inputs = [r#"{"ü😀":[null,true,-1.5,""]}"#, "7", r#""grüße""#, "[]", "null"];
    for id in (1..100).step_by(2) {
        bench.submit_inputs(id, &inputs);
        bench.submit_inputs(id + 1, &inputs[1..2]);
        let output = bench.expect_forward();
        assert_eq!((output.forward_id, output.error), (id, None));
        assert_eq!(output.results, inputs.map(|json| Ok(item(json))));
        assert_eq!(bench.expect_forward().forward_id, id + 1);
    }
    bench.close();
}

pub(super) fn tensors_of_every_kind_cross(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::Class("Echo"));
    let tensor = |dtype: Dtype, shape: &[u32]| {
        let len = shape.iter().product::<u32>() as usize * dtype.size();
        // All of it is 0 or 1, which every dtype has.
        Tensor::new(dtype, shape.to_vec(), (0..len).map(|at| u8::from(at % 3 == 0)).collect()).expect("it fits")
    };
    for (id, dtype) in DTYPES.into_iter().enumerate() {
        // Small ones, an empty one, and one that is no part of a record.
        let fields = [("a", tensor(dtype, &[2, 3])), ("ü😀", tensor(dtype, &[0])), ("one", tensor(dtype, &[1, 1]))];
        let named = fields.into_iter().map(|(name, tensor)| (Some(name.to_owned()), tensor)).collect();
        let items = vec![
            ForwardItem { json: r#"{"text":"x"}"#.to_owned(), tensors: named },
            ForwardItem { json: "null".to_owned(), tensors: vec![(None, tensor(dtype, &[3, 100 << 10 >> 3]))] },
            item("3"),
        ];
        let batch = ForwardBatch { forward_id: id as u64, items, ..ForwardBatch::default() };
        bench.backend.submit_forward(&batch).expect("it is taken");
        let output = bench.expect_forward();
        assert_eq!((output.forward_id, output.error), (batch.forward_id, None));
        for (result, input) in output.results.iter().zip(&batch.items) {
            let result = result.as_ref().expect("it is answered");
            assert_eq!(result.json, input.json, "{dtype:?}");
            // Their order is not part of a value.
            let sorted = |item: &ForwardItem| {
                let mut tensors = item.tensors.clone();
                tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
                tensors
            };
            assert!(sorted(result) == sorted(input), "{dtype:?}: {result:?}");
        }
    }
    bench.close();
}

pub(super) fn a_big_input_passes_or_is_refused_with_the_limit(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::Class("Echo"));
    let text = format!("\"{}\"", "ü".repeat(1 << 20));
    match subject.max_record_bytes() {
        None => {
            bench.submit_inputs(1, &[&text]);
            let output = bench.expect_forward();
            assert_eq!(output.error, None);
            assert!(output.results == [Ok(item(&text))]);
        }
        Some(max) => {
            let error = bench.backend.submit_forward(&inputs_of(1, &[&text])).expect_err("it is too long");
            assert_eq!(error.code(), ErrorCode::Unsupported);
            assert!(error.message().contains(&max.to_string()), "{error}");
        }
    }
    bench.forward_round_trip(2);
    bench.close();
}

pub(super) fn a_big_result_passes_or_is_refused(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::Class("Echo"));
    bench.submit_inputs(1, &[r#""long""#]);
    let output = bench.expect_forward();
    match subject.max_record_bytes() {
        None => assert_eq!(output.results[0].as_ref().expect("it passes").json.len(), (2 << 20) + 2),
        Some(_) => assert_eq!(output.error.expect("it is too long").code(), ErrorCode::Unsupported),
    }
    bench.forward_round_trip(2);
    bench.close();
}

pub(super) fn an_input_has_an_error_of_its_own(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::Class("Echo"));
    bench.submit_inputs(1, &["1", r#""error""#, "2", r#""odd""#, "3"]);
    let output = bench.expect_forward();
    assert_eq!((output.error, output.results.len()), (None, 5));
    for (at, text) in [(0, "1"), (2, "2"), (4, "3")] {
        assert_eq!(output.results[at], Ok(item(text)));
    }
    let error = output.results[1].as_ref().expect_err("it is an exception");
    assert_eq!((error.code(), error.stage()), (ErrorCode::PythonError, Some(Stage::Forward)));
    assert_eq!(error.python().expect("an exception is behind it").python_type, "KeyError");
    assert!(error.message().contains("grüße"), "{error}");
    let error = output.results[3].as_ref().expect_err("it is no JSON");
    assert_eq!(error.code(), ErrorCode::PythonError);
    assert!(error.message().contains("the result of input 3 cannot be sent"), "{error}");
    bench.forward_round_trip(2);
    bench.close();
}

pub(super) fn a_class_that_raises_fails_its_batch_alone(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::Class("Echo"));
    let mut failing = inputs_of(1, &["1", r#""raise""#]);
    failing.request_ids = vec!["call-ü😀".to_owned(); 2];
    bench.backend.submit_forward(&failing).expect("it is taken");
    bench.submit_inputs(2, &["2"]);
    let error = forward_error(&mut bench, 1);
    assert_eq!((error.code(), error.stage()), (ErrorCode::PythonError, Some(Stage::Forward)));
    assert!(error.message().contains("ValueError: asked to: grüße 😀 "), "{error}");
    assert!(error.python().is_some_and(|python| python.traceback.contains("in forward\n")), "{error:?}");
    assert_eq!(bench.expect_forward().results, [Ok(item("2"))]);
    let record = bench.expect_log("forward 1 raised ValueError; requests: call-ü😀");
    assert_eq!((record.level, record.request_id.as_deref()), (LogLevel::Warn, Some("call-ü😀")));
    bench.close();
}

fn forward_error(bench: &mut Bench, forward_id: u64) -> Error {
    let output = bench.expect_forward();
    assert_eq!((output.forward_id, output.results.len()), (forward_id, 0));
    output.error.expect("the whole of it failed")
}

pub(super) fn a_wrong_number_of_results_is_told(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::Class("Echo"));
    bench.submit_inputs(1, &["1", r#""fewer""#, "3"]);
    let error = forward_error(&mut bench, 1);
    assert_eq!(error.code(), ErrorCode::PythonError);
    assert!(error.message().contains("Echo.forward got 3 inputs and returned 2 results"), "{error}");
    assert!(error.remedy().is_some_and(|remedy| remedy.contains("one result for each input")), "{error}");
    bench.forward_round_trip(2);
    bench.close();
}

pub(super) fn a_step_for_a_class_is_refused(subject: &dyn Subject) {
    let mut bench = Bench::start(subject, &Model::Class("Echo"));
    assert_eq!(bench.expect_ready().model.tasks, ["predict"]);
    bench.submit(&enters(4, 0, &[7]));
    let output = bench.expect_step();
    assert_eq!(output.step_id, 4);
    assert!(output.error.is_some_and(|error| error.message().contains("kind 1 where 2")));
    bench.forward_round_trip(5);
    bench.close();
}

pub(super) fn a_tensor_may_lie_there_already(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::Class("Echo"));
    let store = bench.backend.tensor_store().expect("it has a store");
    assert!(store.hold(&[0; 100]).is_none(), "not worth it");
    let hold = |fill: u8| {
        let memory = store.hold(&vec![fill; 1 << 20])?;
        assert_eq!(memory.len(), 1 << 20);
        Some(Tensor::lent(Dtype::Uint8, vec![1 << 20], memory).expect("it fits"))
    };
    let whole = |tensor: &Tensor| ForwardItem { json: "null".to_owned(), tensors: vec![(None, tensor.clone())] };
    let mut submit = |id: u64, tensors: &[&Tensor]| {
        let items = tensors.iter().map(|tensor| whole(tensor)).collect();
        let batch = ForwardBatch { forward_id: id, items, ..ForwardBatch::default() };
        bench.backend.submit_forward(&batch).expect("it is taken");
        let output = bench.expect_forward();
        assert_eq!((output.forward_id, output.error), (id, None));
        for (result, tensor) in output.results.iter().zip(tensors) {
            assert!(*result == Ok(whole(tensor)), "forward {id}");
        }
    };
    // Twice in one forward, and again and again; then in memory that was another's.
    let first = hold(1).expect("there is room");
    for id in 0..50 {
        submit(id, &[&first, &first]);
        submit(100 + id, &[&hold(id as u8).expect("there is room"), &first]);
    }
    // However much is held, what is not held finds its way.
    let many: Vec<_> = (0..80u8).map_while(hold).collect();
    assert!(many.len() > 8);
    let own = Tensor::new(Dtype::Uint8, vec![1 << 20], vec![9; 1 << 20]).expect("it fits");
    submit(200, &[&own, &many[0], &many[7]]);
    for (id, tensor) in (300..).zip(&many) {
        submit(id, &[tensor]);
    }
    drop((many, first));
    submit(400, &[&hold(5).expect("there is room again")]);
    bench.close();
}

pub(super) fn what_a_class_keeps_of_tensors_never_changes(subject: &dyn Subject) {
    let mut bench = Bench::ready(subject, &Model::Class("Keeper"));
    let store = bench.backend.tensor_store();
    // Beside the record where a bridge has such a place, there already where it has such a store, and inside.
    let mut held = Vec::new();
    for id in 0..1050u64 {
        let len = if id % 2 == 0 { 300 << 10 } else { 300 };
        let fill = (id % 251) as u8;
        let bytes = vec![fill; len as usize];
        let memory = store.as_ref().filter(|_| id % 4 == 0).and_then(|store| store.hold(&bytes));
        let tensor = match memory {
            Some(memory) => Tensor::lent(Dtype::Uint8, vec![len], memory),
            None => Tensor::new(Dtype::Uint8, vec![len], bytes),
        };
        let tensor = tensor.expect("it fits");
        let items = vec![ForwardItem { json: "null".to_owned(), tensors: vec![(None, tensor.clone())] }];
        bench
            .backend
            .submit_forward(&ForwardBatch { forward_id: id, items, ..ForwardBatch::default() })
            .expect("it is taken");
        let output = bench.expect_forward();
        assert_eq!(output.error, None);
        let results = &output.results[0].as_ref().expect("it is answered").tensors;
        let named = |name: &str| &results.iter().find(|(n, _)| n.as_deref() == Some(name)).expect("it is there").1;
        assert_eq!(*named("same"), tensor);
        assert_eq!(named("strided").to_vec(), vec![fill; len as usize / 2]);
        // Results that are held keep their memory.
        if id < 6 {
            held.push((named("same").clone(), tensor));
        }
    }
    assert!(held.iter().all(|(result, tensor)| result == tensor));
    bench.close();
}
