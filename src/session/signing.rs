//! Signatures by a private key that is not in this process: requests go out as events, answers come
//! back as commands.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, mpsc};

use super::commands::{Command, NoSignature};
use super::event::{SessionEvent, SignatureRequest};
use super::extension::{Extension, Step};
use crate::tls::{ExternalSigner, SignReply, SignRequest, Waker};

/// The session's end of the way to the external key.
pub(super) struct Signing {
    signer: Arc<Forward>,
    /// One for each TLS handshake, which waits for it.
    requests: mpsc::UnboundedReceiver<(SignRequest, SignReply)>,
    progress: Arc<Notify>,
    waiting: BTreeMap<u32, SignReply>,
    next_id: u32,
}

struct Forward(mpsc::UnboundedSender<(SignRequest, SignReply)>);

impl ExternalSigner for Forward {
    fn sign(&self, request: SignRequest, reply: SignReply) {
        // A session that is gone drops the reply, which refuses.
        let _ = self.0.send((request, reply));
    }
}

impl Signing {
    pub(super) fn new() -> Self {
        let (sender, requests) = mpsc::unbounded_channel();
        Self {
            signer: Arc::new(Forward(sender)),
            requests,
            progress: Arc::new(Notify::new()),
            waiting: BTreeMap::new(),
            next_id: 0,
        }
    }

    pub(super) fn signer(&self) -> Arc<dyn ExternalSigner> {
        Arc::<Forward>::clone(&self.signer)
    }

    pub(super) fn waker(&self) -> Waker {
        let progress = Arc::clone(&self.progress);
        Arc::new(move || progress.notify_one())
    }

    async fn next_step(&mut self) -> Step {
        tokio::select! {
            () = self.progress.notified() => {
                Step::Control(Box::new(|control| control.handle_tls_ready(Instant::now())))
            }
            Some((request, reply)) = self.requests.recv() => {
                let id = self.next_id;
                self.next_id = self.next_id.wrapping_add(1);
                self.waiting.insert(id, reply);
                Step::Tell(Box::new(SessionEvent::Sign(SignatureRequest {
                    id,
                    algorithm: request.algorithm,
                    digest: request.digest(),
                    message: request.message,
                })))
            }
        }
    }

    /// Passes an answer on; false if nothing waits for it.
    fn answer(&mut self, id: u32, signature: Result<Vec<u8>, NoSignature>) -> bool {
        let Some(reply) = self.waiting.remove(&id) else { return false };
        match signature {
            Ok(signature) => reply.answer(signature),
            Err(reason) => reply.refuse(&reason.to_string()),
        }
        true
    }
}

impl Extension for Signing {
    fn next(&mut self) -> BoxFuture<'_, Step> {
        Box::pin(self.next_step())
    }

    fn command(&mut self, command: Command) -> Option<Command> {
        let Command::Sign { id, signature } = command else { return Some(command) };
        if !self.answer(id, signature) {
            tracing::warn!("signature {id} came too late: nothing waits for it");
        }
        None
    }

    fn connection_over(&mut self) {
        self.waiting.clear();
    }
}
