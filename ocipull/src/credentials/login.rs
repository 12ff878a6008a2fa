//! Credentials of one registry.

use crate::{CredentialSource, Secret};

/// The form of credentials for a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Login {
    /// No credentials.
    Anonymous,
    /// A name, which may be any bytes too, and a password.
    Basic { username: Vec<u8>, password: Secret },
    /// A refresh token, to be exchanged at the token service. Docker calls it an identity token.
    Identity(Secret),
    /// A bearer token for the registry itself.
    Bearer(Secret),
}

/// Credentials and their source.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) login: Login,
    pub(crate) source: CredentialSource,
}

impl Found {
    pub(super) fn anonymous() -> Self {
        Self {
            login: Login::Anonymous,
            source: CredentialSource::None,
        }
    }
}
