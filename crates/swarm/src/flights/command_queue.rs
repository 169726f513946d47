//! The queue from the mirror to the node's task: in order, bounded, and without loss of commands that end a pull.
//!
//! A queued report of progress is replaced by a newer one of the same kind about the same object, so that long pulls do
//! not fill the queue. The end of a pull is always reported: otherwise other nodes would wait for it for hours.

use std::collections::{HashMap, VecDeque};
use std::mem::discriminant;
use std::sync::Arc;

use ::flights::{Key, PullProgress};

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::FlightCommand;

/// The most queued requests. Further callers wait.
const MAX_REQUESTS: usize = 1024;
/// The most queued commands before progress that does not end a pull is dropped.
const MAX_QUEUED: usize = 4096;

/// Returns both ends of a new queue.
pub(crate) fn command_queue() -> (CommandSender, CommandReceiver) {
    let queue = Arc::new(Queue {
        state: Mutex::default(),
        pushed: Notify::new(),
        room: Arc::new(Semaphore::new(MAX_REQUESTS)),
    });
    (CommandSender(queue.clone()), CommandReceiver(queue))
}

#[derive(Debug)]
pub(crate) struct CommandSender(Arc<Queue>);

#[derive(Debug)]
pub(crate) struct CommandReceiver(Arc<Queue>);

#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    pushed: Notify,
    room: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct State {
    commands: VecDeque<Queued>,
    /// The number of the first queued command.
    first: u64,
    /// The numbers of the latest queued commands, by their subjects.
    latest: HashMap<Subject, u64>,
}

#[derive(Debug)]
struct Queued {
    command: FlightCommand,
    /// The room that a request takes.
    _room: Option<OwnedSemaphorePermit>,
}

/// The subject of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Object(Key),
    Rates,
}

/// The receiver is gone.
#[derive(Debug)]
pub(crate) struct Closed;

impl CommandSender {
    /// Queues a request once there is room.
    pub(crate) async fn request(&self, command: FlightCommand) -> Result<(), Closed> {
        let room = self.0.room.clone().acquire_owned().await;
        let room = room.map_err(|_| Closed)?;
        self.0.push(command, Some(room));
        Ok(())
    }

    /// Queues a command that needs no answer. Returns whether the cluster will learn of it.
    pub(crate) fn send(&self, command: FlightCommand) -> bool {
        self.0.push(command, None)
    }
}

impl CommandReceiver {
    /// The next command. Waits for ever if there is no sender. Cancel-safe.
    pub(crate) async fn recv(&mut self) -> FlightCommand {
        loop {
            let pushed = self.0.pushed.notified();
            if let Some(command) = self.0.state.lock().pop() {
                return command;
            }
            pushed.await;
        }
    }
}

impl Drop for CommandReceiver {
    fn drop(&mut self) {
        self.0.room.close();
        // Waiting callers learn that there will be no answer.
        let waiting = std::mem::take(&mut *self.0.state.lock());
        drop(waiting);
    }
}

impl Queue {
    fn push(&self, command: FlightCommand, room: Option<OwnedSemaphorePermit>) -> bool {
        // Within the lock, so that the receiver that closes the queue also drops this command.
        let mut state = self.state.lock();
        let is_queued = !self.room.is_closed() && state.push(command, room);
        drop(state);
        self.pushed.notify_one();
        is_queued
    }
}

impl State {
    fn push(&mut self, command: FlightCommand, room: Option<OwnedSemaphorePermit>) -> bool {
        let subject = subject(&command);
        if let Some(waiting) = self.latest_about(subject)
            && replaces(&command, waiting)
        {
            *waiting = command;
            return true;
        }
        if self.commands.len() >= MAX_QUEUED && !must_be_queued(&command) {
            return false;
        }
        if let Some(subject) = subject {
            let number = self.first + self.commands.len() as u64;
            self.latest.insert(subject, number);
        }
        self.commands.push_back(Queued {
            command,
            _room: room,
        });
        true
    }

    fn latest_about(&mut self, subject: Option<Subject>) -> Option<&mut FlightCommand> {
        let number = *self.latest.get(&subject?)?;
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.commands
            .get_mut(index)
            .map(|queued| &mut queued.command)
    }

    fn pop(&mut self) -> Option<FlightCommand> {
        let Queued { command, .. } = self.commands.pop_front()?;
        if let Some(subject) = subject(&command)
            && self.latest.get(&subject) == Some(&self.first)
        {
            self.latest.remove(&subject);
        }
        self.first += 1;
        Some(command)
    }
}

fn subject(command: &FlightCommand) -> Option<Subject> {
    match command {
        FlightCommand::RequestSource(request, _) => Some(Subject::Object(request.key())),
        FlightCommand::Report(digest, _) => Some(Subject::Object(Key::of(digest.as_str()))),
        FlightCommand::Observe(_) => Some(Subject::Rates),
        FlightCommand::Charge(..) | FlightCommand::LinkTested(_) => None,
    }
}

/// Whether a command says all that an earlier one about the same subject says.
fn replaces(command: &FlightCommand, before: &FlightCommand) -> bool {
    match (command, before) {
        (FlightCommand::Report(_, now), FlightCommand::Report(_, before)) => {
            discriminant(now) == discriminant(before)
        }
        (FlightCommand::Observe(_), FlightCommand::Observe(_)) => true,
        _ => false,
    }
}

/// Whether a node would wait in vain without it. There are few such commands: requests have their own limit, and a
/// node has at most 1024 pulls at once.
fn must_be_queued(command: &FlightCommand) -> bool {
    match command {
        FlightCommand::Report(_, progress) => !matches!(progress, PullProgress::Begun { .. }),
        FlightCommand::RequestSource(..) | FlightCommand::LinkTested(_) => true,
        FlightCommand::Observe(_) | FlightCommand::Charge(..) => false,
    }
}

#[cfg(test)]
mod tests {
    use ::flights::{LinkTest, Received, SourceRequest};
    use oci::Digest;
    use tokio::sync::oneshot;

    use super::*;

    const BEGUN: PullProgress = PullProgress::Begun { size: 7 };

    fn digest(number: usize) -> Digest {
        Digest::sha256(&number.to_be_bytes())
    }

    fn report(digest: &Digest, progress: PullProgress) -> FlightCommand {
        FlightCommand::Report(digest.clone(), progress)
    }

    fn rates(total: u64) -> FlightCommand {
        FlightCommand::Observe(Received {
            rate: total,
            ..Received::default()
        })
    }

    fn request(number: usize) -> FlightCommand {
        let request = SourceRequest::new(digest(number).as_str(), None);
        FlightCommand::RequestSource(request.into(), oneshot::channel().0)
    }

    /// The queued commands: reports in full, others as a word.
    async fn drain(receiver: &mut CommandReceiver) -> Vec<(Option<Digest>, String)> {
        let mut drained = Vec::new();
        while !receiver.0.state.lock().commands.is_empty() {
            drained.push(match receiver.recv().await {
                FlightCommand::Report(digest, progress) => (Some(digest), format!("{progress:?}")),
                FlightCommand::Observe(rates) => (None, format!("rates: {}", rates.rate)),
                FlightCommand::RequestSource(..) => (None, "request".into()),
                FlightCommand::Charge(..) | FlightCommand::LinkTested(_) => (None, "tested".into()),
            });
        }
        drained
    }

    #[tokio::test]
    async fn however_full_it_is_the_end_of_a_pull_is_told() {
        let (sender, mut receiver) = command_queue();
        for number in 0..MAX_QUEUED {
            assert!(sender.send(report(&digest(number), BEGUN)));
        }
        let ended = digest(MAX_QUEUED);
        assert!(!sender.send(report(&ended, BEGUN)), "it is full");
        let ends = [
            PullProgress::Done,
            PullProgress::Failed,
            PullProgress::Wrong,
        ];
        for end in ends {
            assert!(sender.send(report(&ended, end)), "{end:?}");
        }
        sender.send(FlightCommand::LinkTested(LinkTest::default()));
        let drained = drain(&mut receiver).await;
        let ends = ends.map(|end| (Some(ended.clone()), format!("{end:?}")));
        assert_eq!(drained[MAX_QUEUED..][..3], ends);
        assert_eq!(drained[MAX_QUEUED + 3..], [(None, "tested".into())]);
        assert!(receiver.0.state.lock().latest.is_empty());
    }

    #[tokio::test]
    async fn what_goes_on_takes_one_place_and_the_order_stays() {
        let (sender, mut receiver) = command_queue();
        for _ in 0..2 * MAX_QUEUED {
            assert!(sender.send(report(&digest(1), BEGUN)));
        }
        sender.send(rates(1));
        sender.send(report(&digest(1), PullProgress::Failed));
        sender.request(request(1)).await.expect("open");
        sender.send(report(&digest(1), BEGUN));
        sender.send(report(&digest(1), BEGUN));
        sender.send(rates(2));
        let words: Vec<_> = drain(&mut receiver)
            .await
            .into_iter()
            .map(|(_, word)| word)
            .collect();
        let begun = format!("{BEGUN:?}");
        assert_eq!(words, [&begun, "rates: 2", "Failed", "request", &begun]);
        // A command that was received is not replaced.
        sender.send(report(&digest(1), BEGUN));
        assert_eq!(drain(&mut receiver).await.len(), 1);
    }

    #[tokio::test]
    async fn requests_wait_for_room_and_for_no_receiver_that_is_gone() {
        let (sender, mut receiver) = command_queue();
        for number in 0..MAX_REQUESTS {
            sender.request(request(number)).await.expect("room");
        }
        let mut further = Box::pin(sender.request(request(0)));
        assert!(futures::poll!(&mut further).is_pending());
        receiver.recv().await;
        further.await.expect("room");
        let (asker, answer) = oneshot::channel();
        let last = SourceRequest::new(digest(0).as_str(), None);
        receiver.recv().await;
        let last = FlightCommand::RequestSource(last.into(), asker);
        sender.request(last).await.expect("room");
        drop(receiver);
        answer.await.expect_err("nobody answers");
        sender.request(request(1)).await.expect_err("closed");
        assert!(!sender.send(report(&digest(1), PullProgress::Done)));
    }
}
