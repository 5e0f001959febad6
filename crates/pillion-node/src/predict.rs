//! The inputs of `predict` on their way in and its results on their way out. `src/predict.ts` is the other side.

use std::{fmt::Write as _, sync::Arc};

use napi::bindgen_prelude::Uint8Array;
use pillion_core::{
    Error, ErrorCode, Result, Stage,
    forward::{Dtype, ForwardItem, Tensor, TensorMemory, TensorStore},
};
use pillion_engine::Prediction;
use pillion_tokenize::TextArena;
use serde_json::{json, value::RawValue};

use crate::texts::only_text;

/// Python's parser goes one call deeper for each; its own limit is about a thousand.
const MAX_DEPTH: usize = 200;

/// The inputs of one call, copied from JS and not yet looked at.
pub(crate) struct Inputs {
    /// A JSON array of the values, without their tensors.
    pub(crate) items: TextArena,
    /// A JSON array of the tensors' names; `null` for one that is its whole item.
    pub(crate) names: String,
    /// Per tensor: its item, its dtype's number, how many dimensions it has, and their sizes.
    pub(crate) table: Vec<u32>,
    /// Per tensor.
    pub(crate) data: Vec<Elements>,
}

/// What is in a tensor.
pub(crate) enum Elements {
    Own(Vec<u8>),
    /// In the memory from which Python reads.
    Held(Arc<dyn TensorMemory>),
}

impl Elements {
    fn copy(bytes: &[u8], store: Option<&dyn TensorStore>) -> Self {
        let held = store.and_then(|store| store.hold(bytes));
        held.map_or_else(|| Self::Own(bytes.to_vec()), Self::Held)
    }

    fn into_tensor(self, dtype: Dtype, shape: Vec<u32>) -> Result<Tensor> {
        match self {
            Self::Own(bytes) => Tensor::new(dtype, shape, bytes),
            Self::Held(memory) => Tensor::lent(dtype, shape, memory),
        }
    }
}

impl Inputs {
    /// Copies what JS may change while the call waits, large tensors to where Python reads them.
    pub(crate) fn copy(
        items: TextArena,
        names: String,
        table: &[u32],
        data: &[Uint8Array],
        store: Option<&dyn TensorStore>,
    ) -> Self {
        let data = data.iter().map(|bytes| Elements::copy(bytes, store)).collect();
        Self { items, names, table: table.to_vec(), data }
    }

    /// The items. To be called on the pool.
    pub(crate) fn into_items(self) -> Result<Vec<ForwardItem>> {
        self.read().map_err(|e| e.with_stage(Stage::Validate))
    }

    fn read(self) -> Result<Vec<ForwardItem>> {
        let text = only_text(&self.items)?;
        let values: Vec<&RawValue> = serde_json::from_str(&text).map_err(|e| bad(&e))?;
        let names: Vec<Option<String>> = serde_json::from_str(&self.names).map_err(|e| bad(&e))?;
        let item = |value: &RawValue| ForwardItem { json: value.get().to_owned(), tensors: Vec::new() };
        let mut items: Vec<_> = values.into_iter().map(item).collect();
        if let Some(index) = items.iter().position(|item| depth(&item.json) > MAX_DEPTH) {
            let message = format!("inputs[{index}] is nested more than {MAX_DEPTH} deep");
            return Err(Error::new(ErrorCode::InvalidArgument, message).with_param("inputs"));
        }
        let mut table = self.table.into_iter();
        for (name, data) in names.into_iter().zip(self.data) {
            let mut word = || table.next().ok_or_else(|| Error::internal("the table of tensors is too short"));
            let (index, code, dimensions) = (word()?, word()?, word()?);
            let shape = (0..dimensions).map(|_| word()).collect::<Result<Vec<_>>>()?;
            let dtype =
                Dtype::from_code(code).ok_or_else(|| Error::internal(format!("a tensor of the dtype {code}")))?;
            let tensor = data.into_tensor(dtype, shape).map_err(|e| e.with_param("inputs"))?;
            let item = items.get_mut(index as usize);
            item.ok_or_else(|| Error::internal(format!("a tensor of item {index}")))?.tensors.push((name, tensor));
        }
        Ok(items)
    }
}

fn bad(error: &serde_json::Error) -> Error {
    Error::new(ErrorCode::InvalidArgument, format!("the inputs cannot be used: {error}")).with_param("inputs")
}

/// How deep arrays and objects are nested in a text that is JSON.
fn depth(json: &str) -> usize {
    let (mut now, mut most, mut quoted, mut escaped) = (0usize, 0, false, false);
    for byte in json.bytes() {
        if quoted {
            (quoted, escaped) = (escaped || byte != b'"', !escaped && byte == b'\\');
        } else if byte == b'"' {
            quoted = true;
        } else if matches!(byte, b'[' | b'{') {
            now += 1;
            most = most.max(now);
        } else if matches!(byte, b']' | b'}') {
            now = now.saturating_sub(1);
        }
    }
    most
}

/// Tensors of so many bytes cross as memory of their own, which JS then has, and no part of the record.
const LARGE: usize = 64 << 10;

/// The results of one call as JS takes them.
pub(crate) struct Described {
    /// One JSON text, which says where each tensor lies.
    pub(crate) json: String,
    /// Small tensors, one after the other.
    pub(crate) data: Vec<u8>,
    pub(crate) large: Vec<Vec<u8>>,
}

/// Takes the results apart.
pub(crate) fn describe(prediction: Prediction) -> Described {
    let mut described = Described { json: "[".to_owned(), data: Vec::new(), large: Vec::new() };
    for (index, result) in prediction.results.into_iter().enumerate() {
        described.json.push_str(if index == 0 { "" } else { "," });
        match result {
            Err(error) => {
                let _ = write!(described.json, r#"{{"ok":false,"error":{}}}"#, error.to_json());
            }
            Ok(item) => described.add(item),
        }
    }
    described.json.push(']');
    described
}

impl Described {
    fn add(&mut self, item: ForwardItem) {
        let _ = write!(self.json, r#"{{"ok":true,"value":{},"tensors":["#, item.json);
        for (index, (name, tensor)) in item.tensors.into_iter().enumerate() {
            let (dtype, len) = (tensor.dtype().as_str(), tensor.byte_len());
            let place = if len < LARGE {
                json!({ "offset": self.data.len(), "length": len })
            } else {
                json!({ "large": self.large.len() })
            };
            let entry = json!({ "name": name, "dtype": dtype, "shape": tensor.shape(), "place": place });
            if len < LARGE {
                tensor.append_to(&mut self.data);
            } else {
                self.large.push(tensor.into_vec());
            }
            let _ = write!(self.json, "{}{entry}", if index == 0 { "" } else { "," });
        }
        self.json.push_str("]}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_outside_of_texts() {
        for (json, wanted) in [
            ("1", 0),
            ("[]", 1),
            (r#"{"a":[{}],"b":[]}"#, 3),
            (r#""[[[""#, 0),
            (r#"["\"[[[","\\",[]]"#, 2),
            (r#"["\\\"[[",{"]":1}]"#, 2),
        ] {
            assert_eq!(depth(json), wanted, "{json}");
        }
    }

    #[test]
    fn results_are_described_as_json() {
        let tensor = Tensor::new(Dtype::Int8, vec![2], vec![1, 2]).unwrap();
        let item = ForwardItem { json: r#"{"a":"ü"}"#.into(), tensors: vec![(Some("x\"".into()), tensor.clone())] };
        let whole = ForwardItem { json: "null".into(), tensors: vec![(None, tensor)] };
        let large = Tensor::new(Dtype::Int8, vec![LARGE as u32], vec![3; LARGE]).unwrap();
        let large = ForwardItem { json: "{}".into(), tensors: vec![(Some("y".into()), large)] };
        let results = vec![Ok(item), Err(Error::internal("no")), Ok(whole), Ok(large)];
        let Described { json, data, large } = describe(Prediction { run: 1, results });
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value[0]["value"]["a"], "ü");
        assert_eq!(value[0]["tensors"][0]["name"], "x\"");
        assert_eq!(value[1]["error"]["code"], "internal");
        assert_eq!(value[2]["tensors"][0]["place"], json!({ "offset": 2, "length": 2 }));
        assert_eq!(data, [1, 2, 1, 2]);
        assert_eq!(value[3]["tensors"][0]["place"], json!({ "large": 0 }));
        assert_eq!(large, [vec![3; LARGE]]);
    }
}
