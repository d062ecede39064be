//! What a machine does for whoever holds its socket.

use std::sync::atomic::AtomicBool;

use crate::{
    Check, Checkpoint, CheckpointRequest, Decision, Failure, MigrateProgress, MigrateRequest, Migration,
    PredictRequest, Predicted, Progress, Status,
};

/// A running machine, as the server sees it.
///
/// Methods are called from threads that may block, several at once. At most one [`checkpoint`](Self::checkpoint),
/// [`migrate`](Self::migrate) or [`predict`](Self::predict) runs at a time.
pub trait Service: Send + Sync + 'static {
    /// The machine as it is now. Has to answer while a checkpoint runs.
    ///
    /// # Errors
    /// Whatever keeps the machine from knowing.
    fn status(&self) -> Result<Status, Failure>;

    /// Takes a checkpoint, reports on the way, and returns when the image is durable. Nobody may be listening to
    /// `progress` any more.
    ///
    /// # Errors
    /// Why there is no image, and what the guest is doing now.
    fn checkpoint(
        &self,
        request: &CheckpointRequest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Checkpoint, Failure>;

    /// Sends the machine to another host, reports on the way, and returns when the guest runs there: the machine is about
    /// to end then, and the answer has to reach the client before the server is dropped. Setting `cancel` calls it off.
    ///
    /// # Errors
    /// Why it did not leave, and what the guest is doing now.
    fn migrate(
        &self,
        request: &MigrateRequest,
        cancel: &AtomicBool,
        progress: &mut dyn FnMut(MigrateProgress),
    ) -> Result<Migration, Failure>;

    /// Watches what the guest writes while it runs, and says what its migration would come to. Setting `stop` calls it
    /// off: nobody waits for the answer any more.
    ///
    /// # Errors
    /// Why nothing can be said, and what the guest is doing now.
    fn predict(&self, request: &PredictRequest, stop: &AtomicBool) -> Result<Predicted, Failure>;

    /// Decides what becomes of a guest that stands still because it may run on the other side of a migration.
    ///
    /// # Errors
    /// If nothing is undecided.
    fn decide(&self, decision: Decision) -> Result<Status, Failure>;

    /// Lets guest and monitor check the guest's memory. May take minutes, and may be called several times at once.
    ///
    /// # Errors
    /// Whatever keeps them from checking; a page that is wrong is an answer, not an error.
    fn check(&self) -> Result<Check, Failure>;

    /// Stops the vCPUs. A paused machine stays paused and answers as if it had been running.
    ///
    /// # Errors
    /// Why they could not be stopped.
    fn pause(&self) -> Result<Status, Failure>;

    /// Lets the vCPUs run again. A running machine stays so and answers as if it had been paused.
    ///
    /// # Errors
    /// Why they could not be resumed.
    fn resume(&self) -> Result<Status, Failure>;

    /// Begins to end the machine and returns without waiting for the end: the answer has to reach the client before
    /// the server is dropped.
    ///
    /// # Errors
    /// Why it cannot be ended.
    fn stop(&self) -> Result<Status, Failure>;
}
