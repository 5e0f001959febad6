//! The life of one worker process, from its start to its end: handshake, watch, graceful end.
//!
//! One loop on the supervisor's thread waits for everything but answers. Whatever goes wrong ends in [`Session::fail`], which kills the
//! process; the session is over when the process is.

use std::{
    mem,
    os::unix::net::UnixStream,
    sync::Arc,
    time::{Duration, Instant},
};

use pillion_core::{
    BackendEvent, BackendEvents, Error, ErrorCode, LogLevel, LogRecord, LogSource, Result, WorkerExit, WorkerInfo,
};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::{
    backend::{Shared, WorkerState},
    control::{Control, FromWorker, Listen, TRANSPORT_VERSION, ToWorker},
    flight::Flight,
    lines::LineBudget,
    link::{Answers, Arrivals, Carrier, Channel, Rest, lock},
    mailbox::Mailbox,
    options::WorkerOptions,
    process::WorkerProcess,
    shm::{Doorbell, Life},
    verdict::{check_version, lost, no_socket, not_ready},
};

/// A process that was killed is waited for so long; one that the kernel does not let go cannot be helped.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// A worker that has closed its control socket is about to end; it may take so long.
const EXIT_GRACE: Duration = Duration::from_secs(5);

/// What a session is given.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) options: &'a WorkerOptions,
    pub(crate) shared: &'a Shared,
    pub(crate) mailbox: &'a Arc<Mailbox>,
    pub(crate) events: &'a BackendEvents,
}

/// How a session ended.
#[derive(Debug)]
pub(crate) enum SessionEnd {
    /// It was asked to.
    Closed,
    /// It never became ready.
    NotReady(Error),
    /// It was ready, and is lost. Whether that was told already, with less than is known now.
    Lost { error: Error, is_told: bool },
    /// It was killed and is still there.
    Stuck { error: Error, is_told: bool },
}

/// A process and everything that belongs to it.
pub(crate) struct Session<'a> {
    context: Context<'a>,
    process: WorkerProcess,
    control: Control,
    is_connected: bool,
    /// Until the answers' thread has its part of it.
    channel: Option<Channel>,
    step_bell: Option<Doorbell>,
    answers: Option<Answers>,
    phase: Phase,
    was_ready: bool,
    closing: bool,
    loss: Loss,
    failure: Option<Error>,
    /// Why its answers ended, should the process go on.
    hung_up: Option<Error>,
    budget: LineBudget,
}

/// Whether somebody must hear of the loss of a worker that was ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    None,
    /// From then on even if the exit status is not known.
    ToldAt(Instant),
    Told,
}

#[derive(Debug)]
enum Phase {
    /// It has been started.
    Hello { until: Instant },
    /// It has been told what to load.
    Loading { until: Instant },
    /// It takes steps; when it last gave a sign of life.
    Ready { alive: Instant },
    /// It was asked to end.
    Closing { terminate: Option<Instant>, kill: Instant },
    /// It ends by itself, or should.
    Leaving { until: Instant },
    /// It was killed.
    Killed { until: Instant },
}

impl<'a> Session<'a> {
    /// Starts a process, runs it, and comes back when it has ended.
    pub(crate) fn run(context: Context<'a>) -> SessionEnd {
        context.mailbox.forget_process();
        let mut session = match Self::start(context) {
            Ok(session) => session,
            Err(error) => return SessionEnd::NotReady(error),
        };
        let mut has_ended = false;
        while !has_ended && session.waits_on() {
            has_ended = session.turn();
        }
        session.finish(has_ended)
    }

    fn start(context: Context<'a>) -> Result<Self> {
        let now = Instant::now();
        let (ours, theirs) = UnixStream::pair().map_err(|e| no_socket(&e))?;
        let control = Control::new(ours).map_err(|e| no_socket(&e))?;
        let process = WorkerProcess::spawn(context.options, theirs, context.mailbox)?;
        lock(&context.shared.status).pid = process.pid();
        Ok(Self {
            context,
            process,
            control,
            is_connected: true,
            channel: None,
            step_bell: None,
            answers: None,
            phase: Phase::Hello { until: after(now, context.options.supervise.start_timeout) },
            was_ready: false,
            closing: false,
            loss: Loss::None,
            failure: None,
            hung_up: None,
            budget: LineBudget::new(now),
        })
    }

    /// False once a killed process has had its time.
    fn waits_on(&self) -> bool {
        !matches!(self.phase, Phase::Killed { until } if Instant::now() >= until)
    }

    /// Waits for something to happen and deals with it. True once the process has ended.
    fn turn(&mut self) -> bool {
        let has_mail = self.wait();
        self.process_output();
        self.read_control();
        let now = Instant::now();
        if has_mail {
            let mail = self.context.mailbox.take();
            if let Some(error) = mail.broken {
                self.fail(error);
            }
            if let Some(error) = mail.hung_up {
                self.hung_up(error);
            }
            if mail.abort && matches!(self.phase, Phase::Ready { .. }) {
                // It fits into a buffer that is empty, or else is not worth waiting for.
                let _ = self.control.send(&ToWorker::Abort, &[]);
            }
            if let Some(timeout) = mail.close {
                self.close(timeout, now);
            }
            if mail.exited {
                return true;
            }
            if mail.ending && !self.closing {
                // Whatever is left of it.
                self.kill(now);
            }
        }
        self.check(now);
        false
    }

    /// Until a descriptor is ready or something is due. Gives whether there is mail.
    fn wait(&mut self) -> bool {
        self.control.flush();
        let timeout = self.due(Instant::now()).saturating_duration_since(Instant::now());
        let mut fds = vec![PollFd::from_borrowed_fd(self.context.mailbox.fd(), PollFlags::IN)];
        fds.extend(self.process.output_fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let control = self.control.fd();
        if self.is_connected {
            let out = if self.control.wants_to_write() { PollFlags::OUT } else { PollFlags::empty() };
            fds.push(PollFd::from_borrowed_fd(control, PollFlags::IN | out));
        }
        // Rounded up: a poll that ends a moment too early would be repeated at once.
        let timeout =
            Timespec::try_from(timeout + Duration::from_micros(100)).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        // An interrupted poll is one in which nothing was ready.
        let _ = rustix::event::poll(&mut fds, Some(&timeout));
        fds[0].revents().contains(PollFlags::IN)
    }

    /// When to look again though nothing happens.
    fn due(&self, now: Instant) -> Instant {
        let supervise = &self.context.options.supervise;
        match self.phase {
            Phase::Hello { until } | Phase::Loading { until } | Phase::Leaving { until } => until,
            Phase::Killed { until } => match self.loss {
                Loss::ToldAt(at) => at.min(until),
                Loss::None | Loss::Told => until,
            },
            Phase::Closing { terminate, kill } => terminate.unwrap_or(kill),
            Phase::Ready { alive } => {
                // Nobody tells us of a new step, so its deadline is looked for now and then.
                let soon = after(now, supervise.heartbeat.min(supervise.hang_min));
                let silent = after(alive, supervise.heartbeat_timeout);
                let hung = lock(&self.context.shared.flight).deadline(supervise).map_or(soon, |(at, ..)| at);
                soon.min(silent).min(hung)
            }
        }
    }

    fn check(&mut self, now: Instant) {
        let supervise = &self.context.options.supervise;
        match &mut self.phase {
            Phase::Hello { until } | Phase::Loading { until } if now >= *until => {
                let timeout = supervise.start_timeout;
                self.fail(
                    Error::new(ErrorCode::WorkerLost, format!("the worker was not ready within {timeout:?}"))
                        .with_remedy("raise the start timeout if the model is large or its disk is slow"),
                );
            }
            Phase::Ready { .. } if self.step_bell.as_ref().is_some_and(Doorbell::is_full) => {
                self.fail(Error::internal("it has filled its own doorbell"));
            }
            Phase::Ready { alive } => {
                if let Some((at, step_id, limit)) = lock(&self.context.shared.flight).deadline(supervise) {
                    // Whether it hangs is judged by the step; a step may well keep the GIL from the heartbeat.
                    *alive = now;
                    if now >= at {
                        self.fail(Error::new(
                            ErrorCode::WorkerLost,
                            format!("step {step_id} was not answered within {limit:?}"),
                        ));
                    }
                } else if now.saturating_duration_since(*alive) >= supervise.heartbeat_timeout {
                    let silent = supervise.heartbeat_timeout;
                    self.fail(Error::new(ErrorCode::WorkerLost, format!("no sign of life came for {silent:?}")));
                }
            }
            Phase::Leaving { until } if now >= *until => {
                let reason = self.hung_up.take();
                self.fail(reason.unwrap_or_else(|| {
                    Error::new(ErrorCode::WorkerLost, "the control socket was closed, but the process went on")
                }));
            }
            Phase::Closing { terminate: Some(at), .. } if now >= *at => {
                self.process.terminate();
                if let Phase::Closing { terminate, .. } = &mut self.phase {
                    *terminate = None;
                }
            }
            Phase::Closing { terminate: None, kill } if now >= *kill => self.kill(now),
            Phase::Killed { .. } if matches!(self.loss, Loss::ToldAt(at) if now >= at) => self.tell(),
            _ => {}
        }
    }

    /// Drain, then SIGTERM, then SIGKILL.
    fn close(&mut self, timeout: Duration, now: Instant) {
        self.closing = true;
        if timeout.is_zero() {
            return self.kill(now);
        }
        let kill = after(now, timeout.mul_f64(0.9));
        match self.phase {
            Phase::Killed { .. } => {}
            Phase::Ready { .. } => {
                // The worker ends after the steps that it was given. If that cannot be said, SIGTERM says it.
                let is_told = lock(&self.context.shared.link).take().is_some_and(|link| link.end().is_ok());
                let terminate = if is_told { after(now, timeout.mul_f64(0.6)) } else { now };
                self.phase = Phase::Closing { terminate: Some(terminate), kill };
            }
            Phase::Closing { terminate, kill: earlier } => {
                self.phase = Phase::Closing { terminate, kill: kill.min(earlier) };
            }
            Phase::Hello { .. } | Phase::Loading { .. } | Phase::Leaving { .. } => {
                self.phase = Phase::Closing { terminate: Some(now), kill };
            }
        }
        // What is due may be due now.
        self.check(now);
    }

    /// Its answers have ended. As a rule its process does too, and then says why.
    fn hung_up(&mut self, error: Error) {
        if matches!(self.phase, Phase::Ready { .. }) {
            self.hung_up = Some(error);
            self.unlink();
            self.phase = Phase::Leaving { until: after(Instant::now(), EXIT_GRACE) };
        }
    }

    /// The worker cannot be trusted any more, or not be waited for.
    fn fail(&mut self, error: Error) {
        self.failure.get_or_insert(error);
        self.kill(Instant::now());
    }

    fn kill(&mut self, now: Instant) {
        self.process.kill();
        if !matches!(self.phase, Phase::Killed { .. }) {
            self.phase = Phase::Killed { until: after(now, KILL_WAIT) };
            if self.was_ready && !self.closing {
                self.loss = Loss::ToldAt(after(now, self.context.options.supervise.exit_wait));
            }
        }
        self.unlink();
    }

    /// That it is lost, before it is known how it ended.
    fn tell(&mut self) {
        self.loss = Loss::Told;
        self.stop_answers(Rest::Dropped);
        lock(&self.context.shared.status).state = WorkerState::Lost;
        let exit = WorkerExit { stderr_tail: self.process.stderr_tail(), ..WorkerExit::default() };
        self.context.events.send(BackendEvent::WorkerLost(lost(self.failure.clone(), exit)));
    }

    fn stop_answers(&mut self, rest: Rest) {
        if let Some(answers) = self.answers.take() {
            answers.stop(rest);
        }
    }

    /// What was killed may have been in the middle of an answer. With nothing under way there is nothing to wait for.
    fn rest(&self) -> Rest {
        let ended_itself = self.closing && !matches!(self.phase, Phase::Killed { .. });
        if ended_itself && lock(&self.context.shared.flight).len() > 0 { Rest::Taken } else { Rest::Dropped }
    }

    /// No step comes any more.
    fn unlink(&mut self) {
        if let Some(bell) = &self.step_bell {
            // A worker could have filled the counter, and the engine could wait for it while it holds the link.
            bell.silence();
        }
        *lock(&self.context.shared.link) = None;
    }

    fn process_output(&mut self) {
        let now = Instant::now();
        let (events, budget) = (self.context.events, &mut self.budget);
        self.process.read_output(|is_error, text| log_line(events, budget, now, is_error, text));
        if let Some(count) = budget.left_out(now) {
            let message = format!("the worker wrote {count} lines more than were passed on");
            events.send(BackendEvent::Log(record(LogLevel::Warn, LogSource::Rust, message)));
        }
    }

    fn read_control(&mut self) {
        if !self.is_connected {
            return;
        }
        let mut messages = Vec::new();
        let result = self.control.receive(|message| {
            messages.push(message);
            Ok(())
        });
        for message in messages {
            if let Err(error) = self.handle(message) {
                self.fail(error);
            }
        }
        match result {
            Ok(true) => {}
            Ok(false) => {
                self.is_connected = false;
                if matches!(self.phase, Phase::Hello { .. } | Phase::Loading { .. } | Phase::Ready { .. }) {
                    self.unlink();
                    self.phase = Phase::Leaving { until: after(Instant::now(), EXIT_GRACE) };
                }
            }
            // Killed in the middle of a message, for one.
            Err(_) if self.closing => self.is_connected = false,
            Err(error) => {
                self.is_connected = false;
                self.fail(error);
            }
        }
    }

    fn handle(&mut self, message: FromWorker) -> Result<()> {
        if let Phase::Ready { alive } = &mut self.phase {
            *alive = Instant::now();
        }
        match (message, &self.phase) {
            (FromWorker::Hello { transport_version, version, step_version, pid }, Phase::Hello { until }) => {
                check_version("control protocol", &TRANSPORT_VERSION, &transport_version)?;
                check_version("package", pillion_core::VERSION, &version)?;
                check_version("step record", &pillion_core::step::VERSION, &step_version)?;
                lock(&self.context.shared.status).pid = pid;
                self.phase = Phase::Loading { until: *until };
                self.load()
            }
            (FromWorker::Progress(progress), Phase::Loading { .. }) => {
                self.context.events.send(BackendEvent::Progress(progress));
                Ok(())
            }
            (FromWorker::Ready { info }, Phase::Loading { .. }) => self.ready(info),
            (FromWorker::Failed { error }, Phase::Hello { .. } | Phase::Loading { .. } | Phase::Leaving { .. }) => {
                self.failure.get_or_insert(error);
                // It ends by itself, with whatever it has to say on its standard error.
                self.phase = Phase::Leaving { until: after(Instant::now(), EXIT_GRACE) };
                Ok(())
            }
            (FromWorker::Log { level, message, request_id }, _) => {
                if self.budget.take(Instant::now()) {
                    let record = LogRecord { request_id, ..record(level, LogSource::Python, message) };
                    self.context.events.send(BackendEvent::Log(record));
                }
                Ok(())
            }
            (FromWorker::Heartbeat | FromWorker::Unknown | FromWorker::Progress(_), _)
            | (_, Phase::Closing { .. } | Phase::Killed { .. } | Phase::Leaving { .. }) => Ok(()),
            (message, phase) => Err(Error::internal(format!("the worker said {message:?} in phase {phase:?}"))),
        }
    }

    /// Makes what the steps are carried by, sends it, and says what to load.
    fn load(&mut self) -> Result<()> {
        let options = self.context.options;
        let channel = Channel::new(options, self.context.events)?;
        let (shape, pool, listen) = match &channel.carrier {
            Carrier::Shm(rings) => {
                self.step_bell = Some(rings.step_bell()?);
                let (shape, pool) = rings.shapes();
                (Some(shape), pool, None)
            }
            Carrier::Grpc(folder, _) => {
                let path = folder.socket().to_string_lossy().into_owned();
                (None, None, Some(Listen { path, max_record_bytes: options.max_record_bytes as u64 }))
            }
        };
        let message = ToWorker::Load {
            config: Box::new(options.load.clone()),
            heartbeat_ms: u64::try_from(options.supervise.heartbeat.as_millis()).unwrap_or(u64::MAX).max(1),
            steps: shape,
            answers: shape,
            pool,
            grpc: listen,
        };
        let mut fds = match &channel.carrier {
            Carrier::Shm(rings) => rings.fds(),
            Carrier::Grpc(..) => Vec::new(),
        };
        fds.extend(channel.life.as_ref().map(Life::file));
        self.control.send(&message, &fds)?;
        self.channel = Some(channel);
        Ok(())
    }

    fn ready(&mut self, info: Box<WorkerInfo>) -> Result<()> {
        check_version("package", pillion_core::VERSION, &info.version)?;
        check_version("step record", &pillion_core::step::VERSION, &info.step_version)?;
        let Some(channel) = self.channel.take() else {
            return Err(Error::internal("a worker became ready without rings"));
        };
        let context = self.context;
        *lock(&context.shared.flight) = Flight::default();
        let arrivals = Arrivals { flight: Arc::clone(&context.shared.flight), events: context.events.clone() };
        let pid = lock(&context.shared.status).pid;
        let (link, answers) =
            channel.open(pid, context.options.max_record_bytes, arrivals, context.mailbox, &context.shared.reader)?;
        self.answers = Some(answers);
        *lock(&context.shared.link) = Some(link);
        lock(&context.shared.status).state = WorkerState::Ready;
        self.was_ready = true;
        self.phase = Phase::Ready { alive: Instant::now() };
        context.events.send(BackendEvent::Ready(info));
        Ok(())
    }

    /// Takes in everything that the process has left, and says how it ended.
    fn finish(mut self, has_ended: bool) -> SessionEnd {
        self.process.kill();
        self.unlink();
        // The last words: a typed error of a load, a traceback.
        self.read_control();
        self.process_output();
        let now = Instant::now();
        let (events, budget) = (self.context.events, &mut self.budget);
        self.process.finish_output(|is_error, text| log_line(events, budget, now, is_error, text));
        self.stop_answers(self.rest());
        let exit = if has_ended { self.process.reap() } else { WorkerExit::default() };
        *lock(&self.context.shared.flight) = Flight::default();
        let state = if self.closing { WorkerState::Closed } else { WorkerState::Lost };
        lock(&self.context.shared.status).state = state;
        let failure = self.failure.take();
        if !has_ended {
            let message = format!("process {} was killed and has not ended", self.process.pid());
            let error = Error::new(ErrorCode::WorkerLost, message).with_worker(exit);
            return SessionEnd::Stuck { error, is_told: self.loss == Loss::Told };
        }
        if self.closing {
            SessionEnd::Closed
        } else if mem::take(&mut self.was_ready) {
            SessionEnd::Lost { error: lost(failure, exit), is_told: self.loss == Loss::Told }
        } else {
            SessionEnd::NotReady(not_ready(failure, exit))
        }
    }
}

fn log_line(events: &BackendEvents, budget: &mut LineBudget, now: Instant, is_error: bool, text: &str) {
    if budget.take(now) {
        let level = if is_error { LogLevel::Warn } else { LogLevel::Info };
        events.send(BackendEvent::Log(record(level, LogSource::Python, text.to_owned())));
    }
}

fn record(level: LogLevel, source: LogSource, message: String) -> LogRecord {
    LogRecord { level, source, message, request_id: None }
}

/// A time-out that is beyond what a clock can say never comes.
pub(crate) fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or_else(|| now + Duration::from_secs(86_400 * 365))
}
