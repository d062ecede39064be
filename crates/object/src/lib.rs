//! Stores of checkpoint images on object storage: Amazon S3 and what speaks its protocol, Google Cloud Storage, Azure.
//!
//! [`open`] gives the [`Backend`](ringmark_image::Backend) of a URL, which
//! [`Store::with_backend`](ringmark_image::Store::with_backend) makes a store of:
//!
//! | URL | service | settings from the environment |
//! |---|---|---|
//! | `s3://BUCKET/PREFIX` | S3 and compatible | `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`, `AWS_ALLOW_HTTP`, … |
//! | `gs://BUCKET/PREFIX` | Google Cloud Storage | `GOOGLE_APPLICATION_CREDENTIALS`, `GOOGLE_SERVICE_ACCOUNT`, … |
//! | `az://CONTAINER/PREFIX` | Azure Blob Storage | `AZURE_STORAGE_ACCOUNT_NAME`, `AZURE_STORAGE_ACCOUNT_KEY`, `AZURE_CLIENT_ID`, … |
//!
//! All of it is the `object_store` crate; the variables are those that its builders read, and all three services take
//! one path through the code below. The service has to offer conditional puts (`If-None-Match: *`), as those three do.
//!
//! # Failing services
//!
//! A request that fails in a way that may pass (no connection, a cut one, a server's error, `SlowDown`) is tried again
//! with growing pauses, for a minute at most; [`Limits`] says how long, and how long one request may take. What a retry
//! cannot decide is asked of the service: a put whose answer was lost may have happened, so it counts as done exactly
//! if the object is there with the same bytes.
//!
//! # Memory
//!
//! An upload holds one part and sends up to four more at the same time: 40 MiB, however large the object.
//!
//! # Writers that die
//!
//! No lock is freed here by the death of a process. A writer's claim is an object that it renews; a claim that was not
//! renewed for [`Limits::lease`], by the service's clock and nobody else's, is that of a dead writer. The writer itself
//! counts by a clock that runs while the machine sleeps, refuses to publish once half the lease is over, and allows a
//! put no more than the other half. Claims also name multipart uploads under way, so that those of a dead writer are
//! aborted by the next. (A writer that dies between beginning an upload and noting it leaves one that no listing shows;
//! a lifecycle rule of the bucket for incomplete uploads removes such.)

mod backend;
mod claim;
mod failure;
mod limits;
mod object;
mod open;
mod remote;
mod upload;

pub use limits::Limits;
pub use open::{OpenError, open, open_with};
