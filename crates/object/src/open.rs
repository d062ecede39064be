//! From a URL to a backend.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{BackoffConfig, ClientOptions, HeaderValue, ObjectStoreScheme, RetryConfig};
use ringmark_image::Backend;
use url::Url;

use crate::Limits;
use crate::backend::ObjectBackend;
use crate::failure::chain;
use crate::remote::{Remote, Service};

/// Why there is no backend of a URL.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not a URL, or none of an object store.
    #[error(
        "`{url}` names no object store: {why}; write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX"
    )]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// Settings that are missing or contradict each other.
    #[error("the object store {url} cannot be used: {why}; look at the environment variables of its service")]
    Settings {
        /// The URL.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// No thread could be started.
    #[error("starting threads for {url} failed: {error}")]
    Threads {
        /// The URL.
        url: String,
        /// The system's answer.
        #[source]
        error: io::Error,
    },
}

/// The backend of `url`, with the environment's settings. Nothing is asked of the service yet.
///
/// # Errors
/// [`OpenError`].
pub fn open(url: &str, limits: Limits) -> Result<Arc<dyn Backend>, OpenError> {
    // What is not Unicode is the setting of nothing that is read here.
    let text = |(key, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((key.into_string().ok()?, value.into_string().ok()?))
    };
    open_with(url, std::env::vars_os().filter_map(text), limits)
}

/// The backend of `url` with these settings, named as the environment variables are, and these limits.
///
/// # Errors
/// [`OpenError`].
pub fn open_with(
    url: &str,
    settings: impl IntoIterator<Item = (String, String)>,
    limits: Limits,
) -> Result<Arc<dyn Backend>, OpenError> {
    let refused = |why: &str| OpenError::Url { url: url.to_owned(), why: why.to_owned() };
    let parsed = Url::parse(url).map_err(|error| refused(&error.to_string()))?;
    if parsed.query().is_some() || parsed.fragment().is_some() || parsed.password().is_some() {
        return Err(refused("it has parts that are not bucket or prefix"));
    }
    let (scheme, prefix) = ObjectStoreScheme::parse(&parsed).map_err(|error| refused(&chain(&error)))?;
    // The process may have a provider already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let service = service(&scheme, &parsed, settings, limits)
        .map_err(|error| OpenError::Settings { url: url.to_owned(), why: chain(&error) })?;
    let service = service.ok_or_else(|| refused("this is no scheme of an object store"))?;
    let location = url.trim_end_matches('/').to_owned();
    let remote = Remote::new(location, service, prefix, limits)
        .map_err(|error| OpenError::Threads { url: url.to_owned(), error })?;
    Ok(Arc::new(ObjectBackend::new(remote)))
}

/// The three services have builders of the same shape, but no trait for it.
macro_rules! built {
    ($builder:ty, $url:expr, $prefixes:expr, $settings:expr, $limits:expr) => {{
        let mut builder =
            <$builder>::new().with_retry(retries($limits)).with_client_options(connections($limits));
        for (key, value) in $settings {
            if $prefixes.iter().any(|prefix: &&str| key.starts_with(prefix))
                && let Ok(key) = key.to_ascii_lowercase().parse()
            {
                builder = builder.with_config(key, value);
            }
        }
        Ok(Some(Box::new(builder.with_url($url.to_string()).build()?)))
    }};
}

fn service(
    scheme: &ObjectStoreScheme,
    url: &Url,
    settings: impl IntoIterator<Item = (String, String)>,
    limits: Limits,
) -> Result<Option<Box<dyn Service>>, object_store::Error> {
    match scheme {
        ObjectStoreScheme::AmazonS3 => built!(AmazonS3Builder, url, ["AWS_"], settings, limits),
        ObjectStoreScheme::GoogleCloudStorage => {
            built!(GoogleCloudStorageBuilder, url, ["GOOGLE_", "SERVICE_ACCOUNT"], settings, limits)
        }
        ObjectStoreScheme::MicrosoftAzure => {
            built!(MicrosoftAzureBuilder, url, ["AZURE_", "MSI_ENDPOINT"], settings, limits)
        }
        _ => Ok(None),
    }
}

fn retries(limits: Limits) -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: 16, retry_timeout: limits.retries }
}

/// Settings of the connections, which the environment may override.
fn connections(limits: Limits) -> ClientOptions {
    ClientOptions::new()
        .with_timeout(limits.request)
        .with_connect_timeout(limits.request.min(Duration::from_secs(10)))
        .with_user_agent(HeaderValue::from_static(concat!("ringmark/", env!("CARGO_PKG_VERSION"))))
}
