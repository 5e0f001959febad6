//! The life with a worker that is not our child: somebody started it, and it goes on when we have gone.
//!
//! Everything happens on the supervisor's thread. What is lost here is the connection; a new one is to the same worker, or to another in its
//! place, and begins with every slot free.

use std::{borrow::Cow, path::Path, sync::Arc, time::Duration};

use pillion_core::{BackendEvent, BackendEvents, Error, ErrorCode, LoadConfig, ModelSource, Result, WorkerInfo};
use rustix::process::Pid;
use tokio::{
    io::unix::AsyncFd,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};
use tonic::Streaming;

use super::{
    client::{Client, Failure},
    detached, proto,
    ready::watch,
    stranger::Stranger,
    stream::{StepSender, carry},
};
use crate::{
    backend::WorkerState,
    flight::Flight,
    link::{Arrivals, Link, lock},
    mailbox::Mail,
    options::{Attach, SuperviseOptions},
    session::{Context, SessionEnd, after},
};

/// The step of an engine that has gone may still run in the worker.
const CLEAR: Duration = Duration::from_secs(60);
/// A worker that was started for nothing is asked to end, and may take so long.
const END: Duration = Duration::from_secs(5);
/// Between two looks whether a worker that is starting listens already.
const LOOK: Duration = Duration::from_millis(20);

/// Attaches, runs, and comes back when the connection has ended or was given up.
pub(crate) fn run(context: Context<'_>, place: &Attach) -> SessionEnd {
    context.mailbox.forget_process();
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return SessionEnd::NotReady(error),
    };
    let end = runtime.block_on(async {
        match watch(context.mailbox.fd()) {
            Ok(mail) => Attached { context, place, mail }.live().await,
            Err(e) => SessionEnd::NotReady(Error::internal(format!("the mailbox cannot be waited for: {e}"))),
        }
    });
    *lock(&context.shared.link) = None;
    *lock(&context.shared.flight) = Flight::default();
    let state = if matches!(end, SessionEnd::Closed) { WorkerState::Closed } else { WorkerState::Lost };
    lock(&context.shared.status).state = state;
    end
}

struct Attached<'a, 'fd> {
    context: Context<'a>,
    place: &'a Attach,
    mail: AsyncFd<std::os::fd::BorrowedFd<'fd>>,
}

/// A worker that takes steps.
struct Reached {
    client: Client,
    info: Box<WorkerInfo>,
    sender: StepSender,
    replies: Streaming<proto::StepsReply>,
}

impl Attached<'_, '_> {
    async fn live(&self) -> SessionEnd {
        let reached = tokio::select! {
            reached = self.reach() => reached,
            () = self.closed() => return SessionEnd::Closed,
        };
        match reached {
            Ok(reached) => self.drive(reached).await,
            Err(error) => SessionEnd::NotReady(error),
        }
    }

    /// Until somebody wants an end.
    async fn closed(&self) {
        while self.mail().await.close.is_none() {}
    }

    async fn mail(&self) -> Mail {
        if let Ok(mut guard) = self.mail.readable().await {
            guard.clear_ready();
        }
        self.context.mailbox.take()
    }

    async fn reach(&self) -> Result<Reached> {
        let (options, socket) = (self.context.options, &self.place.socket);
        match self.connect().await {
            Ok(client) => self.greet(client).await.map_err(Failure::into_error),
            Err(Failure::Gone(_)) if self.place.start => {
                let process = detached::start(options, socket)?;
                let reached = self.reach_started(&process).await;
                if reached.is_err() {
                    // Nobody knows of it but us; and whoever tries again must not meet its socket.
                    process.end(END).await;
                }
                reached
            }
            Err(failure) => {
                let command = format!("python -m pillion.worker --listen unix:{} --model DIR", socket.display());
                Err(failure.into_error().with_param("workers").with_remedy(format!("start one: {command}")))
            }
        }
    }

    async fn connect(&self) -> Result<Client, Failure> {
        let options = self.context.options;
        Client::connect(&self.place.socket, options.max_record_bytes, options.protocols.clone()).await
    }

    async fn reach_started(&self, process: &detached::Process) -> Result<Reached> {
        let wait = self.context.options.supervise.start_timeout;
        let client = timeout(wait, self.listening(process))
            .await
            .unwrap_or_else(|_| Err(process.failed(&format!("it did not listen within {wait:?}"))))?;
        self.greet(client).await.map_err(|failure| match failure {
            Failure::Said(error) => error,
            Failure::Gone(error) => process.failed(error.message()),
        })
    }

    /// What an engine says before its first step.
    async fn greet(&self, client: Client) -> Result<Reached, Failure> {
        let (options, status) = (self.context.options, &self.context.shared.status);
        lock(status).pid = client.pid.unwrap_or(0);
        // First the version, then the weights.
        client.info(None).await?;
        let (reply, info) = client.info(Some(options.supervise.start_timeout)).await?;
        let nothing = || Failure::Said(Error::internal("the worker said that it is loaded, but not what"));
        let info = info.ok_or_else(nothing)?;
        same_model(&options.load, &info).map_err(Failure::Said)?;
        lock(status).pid = client.pid.unwrap_or(reply.pid);
        client.clear_cache(CLEAR).await?;
        let (mut sender, requests) = StepSender::new(options.max_record_bytes);
        sender.suit(&reply);
        let replies = client.steps(requests).await?;
        Ok(Reached { client, info: Box::new(info), sender, replies })
    }

    /// Until the worker that was started can be connected to.
    async fn listening(&self, process: &detached::Process) -> Result<Client> {
        loop {
            match self.connect().await {
                Ok(client) => return Ok(client),
                Err(Failure::Said(error)) => return Err(error),
                Err(Failure::Gone(_)) if process.is_alive() => sleep(LOOK).await,
                Err(Failure::Gone(_)) => return Err(process.failed("it ended before it listened")),
            }
        }
    }

    async fn drive(&self, reached: Reached) -> SessionEnd {
        let Reached { client, info, sender, replies } = reached;
        let Context { options, shared, events, .. } = self.context;
        let supervise = &options.supervise;
        *lock(&shared.flight) = Flight::default();
        let arrivals = Arrivals { flight: Arc::clone(&shared.flight), events: BackendEvents::clone(events) };
        *lock(&shared.link) = Some(Link::attached(sender, Arc::clone(&shared.flight)));
        lock(&shared.status).state = WorkerState::Ready;
        events.send(BackendEvent::Ready(info));

        let answers = carry(replies, &arrivals);
        tokio::pin!(answers);
        let gone = process_end(client.pid);
        tokio::pin!(gone);
        let mut pulse = Pulse::start(&client, supervise);
        let mut closing: Option<Instant> = None;
        loop {
            let look = closing.unwrap_or_else(|| self.look());
            tokio::select! {
                biased;
                ended = &mut answers => {
                    let Err(failure) = ended else { return self.end(closing, None) };
                    return self.end(closing, Some(failure.into_error()));
                }
                mail = self.mail() => {
                    if mail.abort {
                        let client = client.clone();
                        // The step is answered either way.
                        tokio::spawn(async move { client.abort().await.map_err(drop) });
                    }
                    if let Some(timeout) = mail.close {
                        // The end of the steps: the worker answers those under way and then ends the stream.
                        *lock(&shared.link) = None;
                        closing = Some(after(Instant::now().into_std(), timeout).into());
                    }
                }
                () = &mut gone => return self.end(closing, Some(self.error("its process ended"))),
                silent = &mut pulse.0 => {
                    // A step may keep the GIL from the thread that answers; whether it hangs is judged by the step.
                    if closing.is_none() && lock(&shared.flight).len() == 0 {
                        let error = silent.unwrap_or_else(|e| Error::internal(format!("the heartbeat ended: {e}")));
                        return self.end(None, Some(error));
                    }
                    pulse = Pulse::start(&client, supervise);
                }
                () = sleep_until(look) => {
                    if closing.is_some() {
                        return SessionEnd::Closed;
                    }
                    let hung = lock(&shared.flight).deadline(supervise).filter(|(at, ..)| *at <= Instant::now().into_std());
                    if let Some((_, step_id, limit)) = hung {
                        return self.end(None, Some(self.error(&format!("step {step_id} was not answered within {limit:?}"))));
                    }
                }
            }
        }
    }

    /// When to look again for a step that hangs. Nobody tells us of a new one.
    fn look(&self) -> Instant {
        let supervise = &self.context.options.supervise;
        let now = std::time::Instant::now();
        let soon = after(now, supervise.heartbeat.min(supervise.hang_min));
        lock(&self.context.shared.flight).deadline(supervise).map_or(soon, |(at, ..)| at.min(soon)).into()
    }

    fn end(&self, closing: Option<Instant>, reason: Option<Error>) -> SessionEnd {
        if closing.is_some() {
            return SessionEnd::Closed;
        }
        let reason = reason.unwrap_or_else(|| self.error("it ended the stream of steps"));
        let error = match reason.code() {
            ErrorCode::WorkerLost => reason,
            code => self.error(reason.message()).with_cause(format_args!("{code}: {}", reason.message())),
        };
        SessionEnd::Lost { error, is_told: false }
    }

    fn error(&self, what: &str) -> Error {
        let socket = self.place.socket.display();
        Error::new(ErrorCode::WorkerLost, format!("the worker at unix:{socket} is lost: {what}"))
    }
}

/// A worker cannot be told what to load: it must have loaded what is wanted.
fn same_model(wanted: &LoadConfig, info: &WorkerInfo) -> Result<()> {
    let refused = |what: &str, wanted: &str, got: &str| {
        Err(Error::new(ErrorCode::InvalidArgument, format!("the worker's {what} is {got}, not {wanted}"))
            .with_param("workers")
            .with_remedy(format!("start a worker with {wanted}, or leave it as the worker has it")))
    };
    // As the runners name what they have loaded: by its folder, or as the class is called.
    let name = match &wanted.model {
        ModelSource::Pretrained { path, .. } => Path::new(path).file_name().unwrap_or_default().to_string_lossy(),
        ModelSource::Class { spec, .. } => Cow::Borrowed(spec.rsplit([':', '.']).next().unwrap_or_default()),
    };
    if name != info.model.name {
        return refused("model", &name, &info.model.name);
    }
    match (&wanted.dtype, &info.model.dtype) {
        (Some(wanted), Some(got)) if wanted != got => refused("dtype", wanted, got),
        _ => Ok(()),
    }
}

/// Asks for a sign of life again and again; ends with the error when none comes.
struct Pulse(JoinHandle<Error>);

impl Pulse {
    fn start(client: &Client, supervise: &SuperviseOptions) -> Self {
        let (client, beat, patience) = (client.clone(), supervise.heartbeat, supervise.heartbeat_timeout);
        Self(tokio::spawn(async move {
            loop {
                sleep(beat).await;
                if let Err(failure) = client.health(patience).await {
                    let message = format!("no sign of life came for {patience:?}");
                    return Error::new(ErrorCode::WorkerLost, message).with_cause(failure.into_error().message());
                }
            }
        }))
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Until the process ends; for ever if the system does not show it to us.
async fn process_end(pid: Option<u32>) {
    let pid = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    match pid.and_then(|pid| Stranger::find(pid).ok()) {
        Some(process) => process.ended().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use pillion_core::{GenerationDefaults, LoadLimits, ModelInfo};

    use super::*;

    #[test]
    fn another_model_or_dtype_is_refused() {
        let load = |model, dtype: Option<&str>| LoadConfig {
            model,
            device: None,
            dtype: dtype.map(str::to_owned),
            num_threads: 1,
            limits: LoadLimits { max_context: None, max_batch_tokens: 1, max_running: 1, kv_cache_bytes: None },
        };
        let wanted = |path: &str, dtype| {
            load(ModelSource::Pretrained { path: path.to_owned(), trust_remote_code: false }, dtype)
        };
        let class =
            |spec: &str| load(ModelSource::Class { spec: spec.to_owned(), options: serde_json::Value::Null }, None);
        let model = ModelInfo {
            name: "m".to_owned(),
            tasks: Vec::new(),
            tier: None,
            tier_reason: None,
            dtype: Some("float32".to_owned()),
            device: None,
            max_context: 1,
            vocab_size: 1,
            num_slots: 1,
            kv_tokens: 1,
            eos_token_ids: Vec::new(),
            defaults: GenerationDefaults::default(),
        };
        let info = WorkerInfo { version: String::new(), step_version: 1, pid: 1, python: None, model };
        assert!(same_model(&wanted("/a/m", None), &info).is_ok());
        assert!(same_model(&wanted("/b/m", Some("float32")), &info).is_ok());
        for spec in ["a/file.py:m", "module:Outer.m"] {
            assert!(same_model(&class(spec), &info).is_ok(), "{spec}");
        }
        for (wanted, part) in [
            (wanted("/a/n", None), "model is m, not n"),
            (wanted("/a/m", Some("bfloat16")), "dtype is float32"),
            (class("a/m.py:Other"), "model is m, not Other"),
            (class("m:n"), "model is m, not n"),
        ] {
            let error = same_model(&wanted, &info).unwrap_err();
            assert!(error.code() == ErrorCode::InvalidArgument && error.message().contains(part), "{error}");
        }
    }
}
