//! The control socket: rare messages as JSON, each behind its length. Steps never pass here.
//!
//! A frame is the length of its JSON in bytes (u32, little-endian) and the JSON, an object whose `type` names it. A receiver leaves types
//! alone that it does not know. The worker speaks first ([`FromWorker::Hello`]); the descriptors of the rings and doorbells come with the
//! first byte of [`ToWorker::Load`].

use std::{
    io::{self, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use pillion_core::{Error, LoadConfig, LogLevel, Progress, Result, WorkerInfo};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::{Deserialize, Serialize};

use crate::shm::{PoolShape, RingShape};

/// The version of the control messages and of the rings.
pub(crate) const TRANSPORT_VERSION: u32 = 1;
/// Longer frames are refused unread.
const MAX_FRAME: usize = 4 << 20;
/// Descriptors that one message may carry.
const MAX_FDS: usize = 7;
/// Apple's systems say it of the socket instead.
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: SendFlags = SendFlags::empty();

/// What Rust says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum ToWorker {
    /// Map the rings, or listen, and load. Carries the descriptors: ring of steps, ring of answers, doorbell of steps, doorbell of answers,
    /// page of life; with a pool, those of inputs and of results before the page; or, with `grpc`, the page of life alone. The page is there on Linux.
    Load {
        /// What to load.
        config: Box<LoadConfig>,
        /// How often to send [`FromWorker::Heartbeat`].
        heartbeat_ms: u64,
        /// The ring that the worker reads.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        steps: Option<RingShape>,
        /// The ring that the worker writes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answers: Option<RingShape>,
        /// For large tensors; the same both ways.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pool: Option<PoolShape>,
        /// In place of the rings: where to listen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grpc: Option<Listen>,
    },
    /// Cut the running step short where that is possible.
    Abort,
}

/// Where a worker serves `proto/worker.proto`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Listen {
    /// The socket, in a folder of mode 0700.
    pub(crate) path: String,
    /// The longest step and the longest answer.
    pub(crate) max_record_bytes: u64,
}

/// What the worker says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum FromWorker {
    /// Who it is. Refused unless the versions fit.
    Hello {
        /// Its [`TRANSPORT_VERSION`].
        transport_version: u32,
        /// Its [`pillion_core::VERSION`].
        version: String,
        /// Its [`pillion_core::step::VERSION`].
        step_version: u16,
        /// Its process; another than the one that was started if that is a wrapper.
        pid: u32,
    },
    /// A part of loading was done.
    Progress(Progress),
    /// Steps may come.
    Ready {
        /// What was loaded.
        info: Box<WorkerInfo>,
    },
    /// Loading failed; the worker ends.
    Failed {
        /// Why.
        error: Error,
    },
    /// It lives.
    Heartbeat,
    /// A record of Python's `logging`.
    Log {
        /// How serious.
        level: LogLevel,
        /// The text.
        message: String,
        /// The request that it is about.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request_id: Option<String>,
    },
    /// From a later version.
    #[serde(other)]
    Unknown,
}

/// Our end of the socket. Never blocks.
#[derive(Debug)]
pub(crate) struct Control {
    stream: UnixStream,
    decoder: FrameDecoder,
    unsent: Vec<u8>,
}

impl Control {
    /// Takes one end of a pair.
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        #[cfg(target_vendor = "apple")]
        rustix::net::sockopt::set_socket_nosigpipe(&stream, true)?;
        Ok(Self { stream, decoder: FrameDecoder::default(), unsent: Vec::new() })
    }

    /// Sends what fits now and keeps the rest for [`Self::flush`]. The descriptors go with the first byte, which must fit.
    pub(crate) fn send(&mut self, message: &ToWorker, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let json = serde_json::to_vec(message).map_err(|e| Error::internal(format!("a control message: {e}")))?;
        if json.len() > MAX_FRAME {
            return Err(Error::invalid(
                "model.options",
                &format!("at most {MAX_FRAME} bytes as JSON"),
                format_args!("{} bytes", json.len()),
            ));
        }
        let mut frame = (json.len() as u32).to_le_bytes().to_vec();
        frame.extend_from_slice(&json);
        if !fds.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(Error::internal("too many descriptors for one message"));
            }
            let head = [io::IoSlice::new(&frame)];
            let sent = rustix::net::sendmsg(&self.stream, &head, &mut ancillary, NO_SIGNAL)
                .map_err(|e| Error::internal(format!("descriptors could not be sent: {e}")))?;
            frame.drain(..sent);
        }
        self.unsent.extend_from_slice(&frame);
        self.flush();
        Ok(())
    }

    /// Sends on what did not fit before. A worker that has gone is noticed elsewhere.
    pub(crate) fn flush(&mut self) {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(sent) => {
                    self.unsent.drain(..sent);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.unsent.clear(),
            }
        }
    }

    /// Whether [`Self::flush`] waits for room.
    pub(crate) fn wants_to_write(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Hands over every message that has come. False once the worker's end is closed.
    pub(crate) fn receive(&mut self, mut handle: impl FnMut(FromWorker) -> Result<()>) -> Result<bool> {
        let mut buffer = [0; 8 << 10];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(n) => self.decoder.push(&buffer[..n], |json| handle(parse(json)?))?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(_) => return Ok(false),
            }
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn parse(json: &[u8]) -> Result<FromWorker> {
    serde_json::from_slice(json).map_err(|e| {
        let quoted: String = String::from_utf8_lossy(json).chars().take(200).collect();
        Error::internal(format!("a control message cannot be read ({e}): {quoted}"))
    })
}

/// Cuts a stream of bytes into frames.
#[derive(Debug, Default)]
struct FrameDecoder {
    rest: Vec<u8>,
}

impl FrameDecoder {
    fn push(&mut self, bytes: &[u8], mut frame: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(head) = self.rest.get(at..at + 4) {
            let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
            if len > MAX_FRAME {
                return Err(Error::internal(format!(
                    "a control message of {len} bytes, at most {MAX_FRAME} are taken"
                )));
            }
            let Some(body) = self.rest.get(at + 4..at + 4 + len) else { break };
            frame(body)?;
            at += 4 + len;
        }
        self.rest.drain(..at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames(parts: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        let mut decoder = FrameDecoder::default();
        for part in parts {
            decoder.push(part, |f| {
                all.push(f.to_vec());
                Ok(())
            })?;
        }
        Ok(all)
    }

    proptest! {
        #[test]
        fn frames_come_whole_whatever_the_parts(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 2),
        ) {
            let mut stream = Vec::new();
            for body in &bodies {
                stream.extend_from_slice(&(body.len() as u32).to_le_bytes());
                stream.extend_from_slice(body);
            }
            let mut at: Vec<_> = cuts.iter().map(|c| c.index(stream.len() + 1)).collect();
            at.sort_unstable();
            let parts = [&stream[..at[0]], &stream[at[0]..at[1]], &stream[at[1]..]];
            prop_assert_eq!(frames(&parts).unwrap(), bodies);
        }

        #[test]
        fn noise_is_an_error_or_waits_for_more(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = frames(&[&bytes]);
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_unread() {
        let error = frames(&[&u32::MAX.to_le_bytes()]).unwrap_err();
        assert!(error.message().contains("4294967295 bytes"), "{error}");
    }

    #[test]
    fn messages_are_pinned() {
        let cases = [
            (r#"{"type":"heartbeat"}"#, FromWorker::Heartbeat),
            (r#"{"type":"fromTheFuture","x":[1]}"#, FromWorker::Unknown),
            (
                r#"{"type":"hello","transportVersion":1,"version":"0.1.0","stepVersion":1,"pid":7}"#,
                FromWorker::Hello { transport_version: 1, version: "0.1.0".into(), step_version: 1, pid: 7 },
            ),
            (
                r#"{"type":"progress","stage":"weights","done":1.0,"total":2.0}"#,
                FromWorker::Progress(Progress { stage: "weights".into(), done: 1.0, total: Some(2.0) }),
            ),
            (
                r#"{"type":"log","level":"warn","message":"m","requestId":"r"}"#,
                FromWorker::Log { level: LogLevel::Warn, message: "m".into(), request_id: Some("r".into()) },
            ),
        ];
        for (json, message) in cases {
            assert_eq!(parse(json.as_bytes()).unwrap(), message, "{json}");
        }
        assert!(parse(b"Segmentation fault").unwrap_err().message().contains("Segmentation fault"));
        assert_eq!(serde_json::to_string(&ToWorker::Abort).unwrap(), r#"{"type":"abort"}"#);
    }

    #[test]
    fn a_message_larger_than_the_sockets_buffer_arrives_whole() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut control = Control::new(ours).unwrap();
        let mut receiver = Control::new(theirs).unwrap();
        // What one side sends the other reads; the log message is as long as may be.
        let text = "x".repeat(1 << 20);
        let json = format!(r#"{{"type":"log","level":"info","message":"{text}"}}"#);
        control.unsent.extend_from_slice(&(json.len() as u32).to_le_bytes());
        control.unsent.extend_from_slice(json.as_bytes());
        control.flush();
        assert!(control.wants_to_write());
        let mut got = None;
        while got.is_none() {
            let open = receiver
                .receive(|m| {
                    got = Some(m);
                    Ok(())
                })
                .unwrap();
            assert!(open);
            control.flush();
        }
        assert_eq!(got, Some(FromWorker::Log { level: LogLevel::Info, message: text, request_id: None }));
        drop(control);
        assert!(!receiver.receive(|_| Ok(())).unwrap());
    }
}
