//! Where images and sockets live.

use std::path::PathBuf;

use etcetera::{BaseStrategy, choose_base_strategy};
use ringmark_image::Location;

use crate::args::StoreArgs;
use crate::failure::{Code, Failure, OrFail, Result};

/// The image store: `--store`, `RINGMARK_STORE`, else under the XDG state folder.
pub(crate) fn store(args: &StoreArgs) -> Result<Location> {
    if let Some(store) = &args.store {
        return Ok(store.clone().into());
    }
    let base = choose_base_strategy().or_fail(Code::Failed)?;
    let state = base.state_dir().unwrap_or_else(|| base.data_dir());
    Ok(state.join("ringmark").join("images").into())
}

/// The folder of the sockets: under `XDG_RUNTIME_DIR`, else one of this user under the temporary folder.
pub(crate) fn sockets() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(runtime) if !runtime.is_empty() => PathBuf::from(runtime).join("ringmark"),
        _ => {
            let user = rustix::process::getuid().as_raw();
            std::env::temp_dir().join(format!("ringmark-{user}"))
        }
    }
}

/// The socket of the machine `name`.
pub(crate) fn socket(name: &str) -> Result<PathBuf> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(plain) {
        return Err(Failure::new(Code::Usage, format!("`{name}` is no machine's name")).advice(
            "use up to 64 letters, digits, hyphens, underscores and dots, not beginning with a dot",
        ));
    }
    Ok(sockets().join(format!("{name}.sock")))
}
