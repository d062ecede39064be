//! The exit codes of machines that could not be made.

use ringmark_machine::{CreateError, PlatformError, RestoreError};

use crate::failure::{Code, Failure};

const NO_GUEST: &str = "there is none: it was not started";

/// A new machine could not be made.
pub(crate) fn create(error: &CreateError) -> Failure {
    let code = match error {
        CreateError::Vcpus(_) | CreateError::Layout(_) | CreateError::Platform(PlatformError::Guest(_)) => {
            Code::Usage
        }
        CreateError::Platform(PlatformError::Open(_) | PlatformError::Architecture)
        | CreateError::KernelOnEngine => Code::NoHypervisor,
        CreateError::Negotiate(_) | CreateError::Track(_) => Code::Tracking,
        CreateError::Elf(_) | CreateError::Pvh(_) => Code::Kernel,
        _ => Code::Failed,
    };
    Failure::new(code, error).guest(NO_GUEST)
}

/// A machine could not be restored.
pub(crate) fn restore(error: &RestoreError) -> Failure {
    let code = match error {
        RestoreError::Create(error) => return create(error),
        RestoreError::Image(error) => crate::store::image_code(error),
        RestoreError::Pages(ringmark_image::RestoreError::Image(error)) => crate::store::image_code(error),
        RestoreError::Pages(_) | RestoreError::State(_) => Code::ImageInvalid,
        RestoreError::Elsewhere { .. } | RestoreError::Layout(_) => Code::NotRestorable,
        RestoreError::Digest { .. } => Code::CheckFailed,
        _ => Code::Failed,
    };
    Failure::new(code, error).guest(NO_GUEST)
}
