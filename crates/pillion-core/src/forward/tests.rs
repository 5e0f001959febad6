use proptest::prelude::*;

use super::*;

prop_compose! {
    fn tensor()(
        code in 1u32..12, shape in prop::collection::vec(0u32..4, 0..4), fill: u8,
    ) -> Tensor {
        let dtype = Dtype::from_code(code).unwrap();
        let len = byte_len(dtype, &shape).unwrap();
        Tensor::new(dtype, shape, (0..len).map(|i| fill.wrapping_add(i as u8)).collect()).unwrap()
    }
}

prop_compose! {
    fn item()(
        text in "\\PC{0,20}",
        named in prop::collection::vec(("\\PC{0,9}", tensor()), 0..3),
        whole in prop::option::of(tensor()),
    ) -> ForwardItem {
        let tensors = named.into_iter().map(|(name, tensor)| (Some(name), tensor));
        ForwardItem {
            json: serde_json::to_string(&text).unwrap(),
            tensors: tensors.chain(whole.map(|tensor| (None, tensor))).collect(),
        }
    }
}

fn batch() -> impl Strategy<Value = ForwardBatch> {
    (any::<u64>(), prop::collection::vec(item(), 0..5), any::<bool>()).prop_map(|(forward_id, items, named)| {
        let request_ids = if named { items.iter().map(|item| item.json.clone()).collect() } else { Vec::new() };
        ForwardBatch { forward_id, items, request_ids }
    })
}

fn output() -> impl Strategy<Value = ForwardOutput> {
    let error = "\\PC{0,20}".prop_map(|m| Error::new(ErrorCode::PythonError, m));
    let result = prop_oneof![3 => item().prop_map(Ok), 1 => error.clone().prop_map(Err)];
    let whole = prop::option::weighted(0.2, error);
    (any::<u64>(), any::<u64>(), prop::collection::vec(result, 0..5), whole).prop_map(
        |(forward_id, forward_ns, results, error)| {
            let results = if error.is_some() { Vec::new() } else { results };
            ForwardOutput { forward_id, forward_ns, results, error }
        },
    )
}

fn encoded(batch: &ForwardBatch) -> Vec<u8> {
    let mut bytes = vec![7; 3];
    batch.encode_into(&mut bytes).unwrap();
    bytes
}

/// Tells only records apart that say something else.
fn is_typed(error: &Error) -> bool {
    matches!(error.code(), ErrorCode::Internal | ErrorCode::VersionMismatch)
}

proptest! {
    #[test]
    fn noise_is_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(ForwardBatch::decode(&bytes).is_err() && ForwardOutput::decode(&bytes).is_err());
    }

    #[test]
    fn a_forward_round_trips(batch in batch()) {
        let bytes = encoded(&batch);
        prop_assert_eq!(ForwardBatch::decode(&bytes).unwrap(), batch);
        prop_assert_eq!(RecordKind::of(&bytes), Some(RecordKind::Forward));
    }

    #[test]
    fn an_output_round_trips(output in output()) {
        let mut bytes = Vec::new();
        output.encode_into(&mut bytes).unwrap();
        prop_assert_eq!(ForwardOutput::decode(&bytes).unwrap(), output);
    }

    #[test]
    fn damage_is_an_error_or_another_record_never_a_panic(
        batch in batch(), output in output(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = Vec::new();
        output.encode_into(&mut bytes).unwrap();
        prop_assert!(ForwardOutput::decode(&bytes[..cut.index(bytes.len())]).is_err());
        for record in [&mut bytes, &mut encoded(&batch)] {
            for (at, value) in &changes {
                let at = at.index(record.len());
                record[at] ^= value;
            }
            if let Err(error) = ForwardBatch::decode(record) {
                prop_assert!(is_typed(&error), "{}", error);
            }
            if let Err(error) = ForwardOutput::decode(record) {
                prop_assert!(is_typed(&error), "{}", error);
            }
        }
    }

    /// A word of the tables is where a hostile side would put its lie.
    #[test]
    fn a_lie_in_a_table_is_an_error_or_another_record(
        batch in batch(), at in any::<prop::sample::Index>(),
        value in prop_oneof![any::<u32>(), 0..64u32, Just(u32::MAX), Just(u32::MAX - 15)],
    ) {
        let mut bytes = encoded(&batch);
        let words = (bytes.len() - HEADER_LEN) / 4;
        let at = HEADER_LEN + 4 * at.index(words);
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        if let Ok(read) = ForwardBatch::decode(&bytes) {
            let size: usize = read.items.iter().flat_map(|i| &i.tensors).map(|(_, t)| t.byte_len()).max().unwrap_or(0);
            prop_assert!(size <= bytes.len());
        }
    }
}

fn tensors(item: u32, entry: [u32; 7]) -> Vec<u8> {
    let tensor = Tensor::new(Dtype::Float32, vec![2], vec![0; 8]).unwrap();
    let item_of = ForwardItem { json: "{}".into(), tensors: vec![(Some("x".into()), tensor)] };
    let mut bytes = encoded(&ForwardBatch { forward_id: 1, items: vec![item_of], ..ForwardBatch::default() });
    let at = le32(&bytes, HEADER_LEN + 8) as usize;
    for (i, word) in [&[item][..], &entry].concat().iter().enumerate() {
        bytes[at + 4 * i..at + 4 * i + 4].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

#[test]
fn what_is_wrong_with_a_tensor_is_named() {
    let good = [2, 1, 9, 0, 1, 0, 0];
    ForwardBatch::decode(&tensors(0, good)).unwrap();
    let check = |item, change: (usize, u32), said: &str| {
        let mut entry = good;
        entry[change.0] = change.1;
        let error = ForwardBatch::decode(&tensors(item, entry)).unwrap_err();
        assert!(error.code() == ErrorCode::Internal && error.message().contains(said), "{error}");
    };
    check(1, (0, 2), "a tensor of item 1 of 1");
    check(0, (0, 3), "1 at 3 lie outside");
    check(0, (1, 9), "9 at 2 lie outside");
    check(0, (2, 12), "dtype 12");
    check(0, (3, 1), "1 at 1 lie outside");
    check(0, (4, 33), "33 dimensions");
    check(0, (5, 8), "a tensor at 8");
    check(0, (5, 16), "at 16 in place 0 lies outside");
    check(0, (6, 1), "in place 1 lies outside");
}

#[test]
fn items_must_be_json() {
    let item = ForwardItem { json: "{".into(), tensors: Vec::new() };
    let error =
        ForwardBatch::decode(&encoded(&ForwardBatch { forward_id: 1, items: vec![item], ..ForwardBatch::default() }))
            .unwrap_err();
    assert!(error.message().contains("item 0 is no JSON"), "{error}");
}

#[test]
fn a_tensor_has_the_bytes_of_its_shape() {
    assert!(Tensor::new(Dtype::Int16, vec![], vec![0; 2]).is_ok());
    let error = Tensor::new(Dtype::Int16, vec![3], vec![0; 5]).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
    assert!(Tensor::new(Dtype::Int64, vec![u32::MAX; 9], vec![]).is_err());
}

/// The same bytes stand in `python/tests/test_forward.py`.
#[test]
fn the_layout_is_pinned() {
    let tensor = Tensor::new(Dtype::Int16, vec![1, 2], vec![1, 0, 2, 0]).unwrap();
    let item = ForwardItem { json: r#"{"a":1}"#.into(), tensors: vec![(Some("xy".into()), tensor)] };
    let bytes = encoded(&ForwardBatch { forward_id: 5, items: vec![item], ..ForwardBatch::default() });
    let digits = |b: &u8| [b >> 4, b & 15].map(|d| char::from_digit(u32::from(d), 16).unwrap());
    assert_eq!(
        bytes.iter().flat_map(digits).collect::<String>(),
        concat!(
            "504c4c4e01000200a00000000500000005000000000000000000000000000000",
            "4800000001000000540000000100000074000000020000007c00000009000000",
            "9000000010000000000000000700000000000000000000000700000002000000",
            "040000000000000002000000000000000000000001000000020000007b226122",
            "3a317d7879000000000000000000000001000200000000000000000000000000",
        )
    );
}

/// Bytes that somebody else keeps.
#[derive(Debug)]
struct Elsewhere(Vec<u8>);

impl TensorMemory for Elsewhere {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn append_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
}

#[test]
fn a_tensor_may_lie_elsewhere() {
    let tensor = |fill: u8| Tensor::new(Dtype::Uint8, vec![20], vec![fill; 20]).unwrap();
    let item = ForwardItem { json: "null".into(), tensors: (1..4).map(|i| (None, tensor(i))).collect() };
    let batch = ForwardBatch { forward_id: 1, items: vec![item.clone()], ..ForwardBatch::default() };
    let mut bytes = Vec::new();
    let second = Place { number: 7, offset: 48 };
    batch.encode_placed(&mut bytes, |t| (t.as_bytes() == Some(&[2; 20])).then_some(second)).unwrap();
    assert!(bytes.len() < encoded(&batch).len());
    assert!(ForwardBatch::decode(&bytes).unwrap_err().message().contains("at 48 in place 7"));

    // An output whose second tensor is said to lie there.
    let output = ForwardOutput { forward_id: 1, results: vec![Ok(item)], ..ForwardOutput::default() };
    let mut whole = Vec::new();
    output.encode_into(&mut whole).unwrap();
    let at = le32(&whole, HEADER_LEN + 8) as usize + TENSOR_LEN + 24;
    whole[at..at + 8].copy_from_slice(&[48, 0, 0, 0, 7, 0, 0, 0]);
    let found = |place: Place, len: usize| {
        assert_eq!((place, len), (second, 20));
        Some(Arc::new(Elsewhere(vec![2; 20])) as Arc<dyn TensorMemory>)
    };
    let read = ForwardOutput::decode_placed(&whole, found).unwrap();
    assert_eq!(read, output);
    let short = |_: Place, _: usize| Some(Arc::new(Elsewhere(vec![2; 19])) as Arc<dyn TensorMemory>);
    assert!(ForwardOutput::decode_placed(&whole, short).is_err());
}
