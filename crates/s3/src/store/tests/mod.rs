//! What leaves and enters over the wire, and what misbehaving servers lead to.

mod answers;
mod calls;
mod canned;
mod endless;
mod odd;
mod once;
mod outcome;
mod repeated;
mod requests;
mod schemes;
mod sockets;

use super::*;
use crate::settings;

const ETAG: &str = "ETag: \"d41d8cd98f00b204e9800998ecf8427e\"\r\n";

fn replica(endpoint: &str) -> settings::StoreSettings {
    settings::StoreSettings {
        name: ReplicaName::new("b2").unwrap(),
        endpoint: endpoint.parse().unwrap(),
        region: "eu-central-003".into(),
        bucket: "photos".into(),
        path_style: true,
        credentials: settings::Credentials::Keys {
            access_key_id: "sandbox".into(),
            secret_access_key: "sandbox-secret".into(),
        },
        storage_class: None,
        provider: settings::Provider::Generic,
        facts: settings::StoreOverrides::default(),
        trust: settings::Trust::default(),
        proxy: None,
        surroundings: settings::NetworkEnvironment::default(),
    }
}

async fn store(endpoint: &str) -> Store {
    Store::connect(&replica(endpoint), 4).await.unwrap()
}

fn key(key: &str) -> copyhold_core::domain::ObjectKey {
    copyhold_core::domain::ObjectKey::new(key).unwrap()
}

fn md5(bytes: &[u8]) -> Md5 {
    use md5::Digest;
    Md5(md5::Md5::digest(bytes).into())
}
