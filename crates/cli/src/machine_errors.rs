//! The exit codes of machines that could not be made.

use ringmark_machine::{CreateError, LoadCause, LoadError, PlatformError, RestoreError, RunError};

use crate::failure::{Code, Failure};

const NO_GUEST: &str = "there is none: it was not started";

/// A new machine could not be made.
pub(crate) fn create(error: &CreateError) -> Failure {
    let code = match error {
        CreateError::Vcpus(_)
        | CreateError::Translators(_)
        | CreateError::Layout(_)
        | CreateError::Platform(PlatformError::Guest(_)) => Code::Usage,
        CreateError::Platform(PlatformError::Open(_)) | CreateError::KernelOnEngine => Code::NoHypervisor,
        CreateError::Negotiate(_) | CreateError::Track(_) => Code::Tracking,
        CreateError::Boot(_) => Code::Kernel,
        _ => Code::Failed,
    };
    Failure::new(code, error).guest(NO_GUEST)
}

/// The exit code of a lazily restored machine that could not get a page.
fn load_code(error: &LoadError) -> Code {
    match &*error.cause {
        LoadCause::Image(error) => crate::store::image_code(error),
        _ => Code::Failed,
    }
}

/// A machine that ran could not go on.
pub(crate) fn run(error: &RunError) -> Failure {
    match error {
        RunError::Load(cause) => Failure::new(load_code(cause), error)
            .guest("stopped, and no image was taken of it since")
            .advice("find out with `ringmark verify --deep` what is damaged, and restore another image"),
        _ => Failure::new(Code::Failed, error).guest("stopped").advice("restore its newest image"),
    }
}

/// A machine could not be restored.
pub(crate) fn restore(error: &RestoreError) -> Failure {
    let code = match error {
        RestoreError::Create(error) => return create(error),
        RestoreError::Image(error) => crate::store::image_code(error),
        RestoreError::Pages(ringmark_image::RestoreError::Image(error)) => crate::store::image_code(error),
        RestoreError::Pages(_) | RestoreError::State(_) => Code::ImageInvalid,
        RestoreError::Elsewhere { .. } | RestoreError::Layout(_) | RestoreError::Lazy(_) => {
            Code::NotRestorable
        }
        RestoreError::Load(error) => load_code(error),
        RestoreError::Digest { .. } => Code::CheckFailed,
        _ => Code::Failed,
    };
    Failure::new(code, error).guest(NO_GUEST)
}
