//! Addresses and certificates of migrations.

use std::path::{Path, PathBuf, absolute};
use std::time::Duration;

use ringmark_control::TlsFiles;
use ringmark_migrate::{Address, Tls};

use crate::args::LinkArgs;
use crate::failure::{Code, Failure, OrFail, Result};

/// How long a peer may be silent: a busy host is waited for, a dead one is not.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The files of certificates, by paths that another process finds.
pub(crate) fn tls_files(args: &LinkArgs) -> Result<Option<TlsFiles>> {
    let (Some(certificate), Some(key), Some(authorities)) = (&args.tls_cert, &args.tls_key, &args.tls_ca)
    else {
        return Ok(None);
    };
    Ok(Some(TlsFiles {
        authorities: found(authorities)?,
        certificate: found(certificate)?,
        key: found(key)?,
    }))
}

fn found(path: &Path) -> Result<PathBuf> {
    absolute(path).or_fail(Code::Usage)
}

/// Certificates of these files.
pub(crate) fn load(files: &TlsFiles) -> std::result::Result<Tls, String> {
    let TlsFiles { authorities, certificate, key } = files.clone();
    Tls::load(&ringmark_migrate::TlsFiles { authorities, certificate, key })
        .map_err(|error| error.to_string())
}

/// What TLS is spoken with, if it is.
pub(crate) fn tls(args: &LinkArgs) -> Result<Option<Tls>> {
    let files = tls_files(args)?;
    let tls = files.map(|files| load(&files)).transpose();
    tls.map_err(|what| Failure::new(Code::Usage, what))
}

/// The same address, found from wherever a process is.
pub(crate) fn anywhere(address: &Address) -> Result<Address> {
    Ok(match address {
        Address::Unix(path) => Address::Unix(absolute(path).or_fail(Code::Usage)?),
        other => other.clone(),
    })
}
