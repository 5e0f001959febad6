//! One connection to a worker: who is at the other end, each call with its deadline, and each failure with its cause.

use std::{
    io,
    ops::RangeInclusive,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use pillion_core::{Error, ErrorCode, Result, WorkerInfo};
use tokio::net::UnixStream;
use tonic::{
    Code, Request, Status, Streaming,
    codegen::tokio_stream::Stream,
    transport::{Channel, Endpoint},
};

use super::{
    folder,
    proto::{self, worker_client::WorkerClient},
};

/// Connecting, and calls that never wait for a forward pass.
pub(super) const CALL: Duration = Duration::from_secs(10);
/// The trailing header with an error as JSON.
const ERROR_KEY: &str = "pillion-error-bin";
/// A prompt of 16,384 tokens in one go.
const WINDOW: u32 = 1 << 20;
/// What a message has beyond its record.
const SLACK: usize = 64 << 10;

/// A connected worker. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Client {
    inner: WorkerClient<Channel>,
    /// The versions that this side speaks.
    protocols: RangeInclusive<u32>,
    /// The process at the other end, if the system says.
    pub(super) pid: Option<u32>,
}

/// Why a call failed: the worker's own words, or that there is nobody to say any.
#[derive(Debug)]
pub(super) enum Failure {
    /// It answered, and this is what it said, or its answer cannot be.
    Said(Error),
    /// The connection has ended or was never there.
    Gone(Error),
}

impl Failure {
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Said(error) | Self::Gone(error) => error,
        }
    }
}

impl Client {
    /// Connects to the socket, and refuses a process of another user.
    pub(super) async fn connect(
        path: &Path,
        max_record_bytes: usize,
        protocols: RangeInclusive<u32>,
    ) -> Result<Self, Failure> {
        folder::check_length(path).map_err(Failure::Said)?;
        let gone = |e: &dyn std::fmt::Display| Failure::Gone(nobody(path, e));
        let stream = within(CALL, UnixStream::connect(path)).await.map_err(|e| gone(&e))?.map_err(|e| gone(&e))?;
        let peer = stream.peer_cred().map_err(|e| gone(&e))?;
        let own = rustix::process::geteuid().as_raw();
        if peer.uid() != own && peer.uid() != 0 {
            let message = format!("the worker at {} belongs to user {}, not to {own}", path.display(), peer.uid());
            return Err(Failure::Said(
                Error::new(ErrorCode::BridgeUnavailable, message).with_remedy("start a worker of your own"),
            ));
        }
        // One connection: a worker that went away is not the one that comes back.
        let once = Mutex::new(Some(stream));
        let connector = tower::service_fn(move |_| {
            let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
            let stream = stream.map(TokioIo::new).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
            std::future::ready(stream)
        });
        let endpoint = Endpoint::from_static("http://worker")
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .tcp_nodelay(false);
        let channel = within(CALL, endpoint.connect_with_connector(connector))
            .await
            .map_err(|e| gone(&e))?
            .map_err(|e| gone(&e))?;
        let limit = max_record_bytes.saturating_add(SLACK);
        let inner = WorkerClient::new(channel).max_decoding_message_size(limit).max_encoding_message_size(limit);
        let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
        Ok(Self { inner, protocols, pid })
    }

    /// Agrees on a version; with `wait`, gives what was loaded, once it is.
    pub(super) async fn info(&self, wait: Option<Duration>) -> Result<(proto::InfoReply, Option<WorkerInfo>), Failure> {
        let request = proto::InfoRequest {
            oldest_protocol: *self.protocols.start(),
            newest_protocol: *self.protocols.end(),
            wait_until_loaded: wait.is_some(),
        };
        let reply = self.call(wait.unwrap_or(CALL), async |mut c, r| c.info(r).await, request).await?;
        check_protocol(reply.protocol, &self.protocols).map_err(Failure::Said)?;
        if reply.worker.is_empty() {
            return Ok((reply, None));
        }
        let info = serde_json::from_str(&reply.worker).map_err(|e| {
            Failure::Said(Error::internal(format!("what the worker says of itself cannot be read: {e}")))
        })?;
        Ok((reply, Some(info)))
    }

    /// Frees every slot. Waits for the step of an engine that has gone.
    pub(super) async fn clear_cache(&self, timeout: Duration) -> Result<(), Failure> {
        let request = proto::ClearCacheRequest {};
        self.call(timeout, async |mut c, r| c.clear_cache(r).await, request).await.map(drop)
    }

    /// Whether it lives.
    pub(super) async fn health(&self, timeout: Duration) -> Result<(), Failure> {
        let request = proto::HealthRequest {};
        self.call(timeout, async |mut c, r| c.health(r).await, request).await.map(drop)
    }

    /// Cuts the running step short.
    pub(super) async fn abort(&self) -> Result<(), Failure> {
        let request = proto::AbortRequest {};
        self.call(CALL, async |mut c, r| c.abort(r).await, request).await.map(drop)
    }

    /// Opens the stream; comes back once the worker has taken it. What is under way in it is watched by the step, not by a deadline.
    pub(super) async fn steps(
        &self,
        requests: impl Stream<Item = proto::StepsRequest> + Send + 'static,
    ) -> Result<Streaming<proto::StepsReply>, Failure> {
        let mut client = self.inner.clone();
        let opened = within(CALL, client.steps(requests)).await.map_err(|e| Failure::Gone(lost(&e)))?;
        opened.map(tonic::Response::into_inner).map_err(|status| failure(&status))
    }

    async fn call<Q, R>(
        &self,
        timeout: Duration,
        method: impl AsyncFnOnce(WorkerClient<Channel>, Request<Q>) -> Result<tonic::Response<R>, Status>,
        request: Q,
    ) -> Result<R, Failure> {
        let mut request = Request::new(request);
        // The worker's side of the deadline. Ours comes first: a worker that is stopped keeps none, and ours says more.
        request.set_timeout(timeout.saturating_add(Duration::from_secs(1)));
        let reply = within(timeout, method(self.inner.clone(), request)).await.map_err(|e| Failure::Gone(lost(&e)))?;
        reply.map(tonic::Response::into_inner).map_err(|status| failure(&status))
    }
}

/// What a status means: the worker's own error, if it sent one.
pub(super) fn failure(status: &Status) -> Failure {
    if let Some(json) = status.metadata().get_bin(ERROR_KEY).and_then(|value| value.to_bytes().ok()) {
        return Failure::Said(Error::from_json(&String::from_utf8_lossy(&json)));
    }
    match status.code() {
        Code::Unimplemented => Failure::Said(
            Error::new(ErrorCode::VersionMismatch, format!("the worker lacks a call: {}", status.message()))
                .with_remedy("update the older of the two sides"),
        ),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded => {
            Failure::Gone(lost(&status.message()))
        }
        code => Failure::Said(Error::internal(format!(
            "the worker's answer cannot be used: {code:?}: {}",
            status.message()
        ))),
    }
}

fn check_protocol(version: u32, ours: &RangeInclusive<u32>) -> Result<()> {
    if ours.contains(&version) {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::VersionMismatch,
        format!(
            "the worker speaks version {version} of the worker protocol, this side {} to {}",
            ours.start(),
            ours.end()
        ),
    )
    .with_remedy("update the older of the two; each speaks the version before its own too"))
}

async fn within<F: Future>(timeout: Duration, future: F) -> Result<F::Output, String> {
    tokio::time::timeout(timeout, future).await.map_err(|_| format!("no answer came within {timeout:?}"))
}

fn lost(cause: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorCode::WorkerLost, format!("the connection to the worker ended: {cause}"))
}

fn nobody(path: &Path, cause: &dyn std::fmt::Display) -> Error {
    let message = format!("no worker can be reached at unix:{}: {cause}", path.display());
    Error::new(ErrorCode::BridgeUnavailable, message)
}
