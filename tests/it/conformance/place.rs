//! The store that the suite runs on: endpoint, credentials and two buckets.

use std::env;

use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation},
};
use copyhold::config::{self, Provider};
use copyhold_s3::store::Store;
use copyhold_sandbox::s3::{BucketOptions, S3Server};

use super::PART_BYTES;
use crate::harness::replica;

/// Where the suite plays: two buckets of one store.
#[derive(Clone, Debug)]
pub struct Place {
    /// As in the lists of what stores cannot do.
    pub store: Kind,
    pub endpoint: String,
    pub region: String,
    pub access_key_id: String,
    pub secret_access_key: String,
    /// The source's and the target's.
    pub buckets: [String; 2],
}

/// Whose habits are expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    InMemory,
    Moto,
    /// Another store; its section in a configuration would name this provider.
    Of(Provider),
}

impl Place {
    /// The two buckets are made there.
    pub fn in_memory(server: &S3Server) -> Self {
        for bucket in ["source", "target"] {
            server.create_bucket(bucket, BucketOptions::default());
        }
        Self::in_memory_again(server)
    }

    /// The same with the buckets as they are.
    pub fn in_memory_again(server: &S3Server) -> Self {
        Self {
            store: Kind::InMemory,
            endpoint: server.endpoint(),
            region: "us-east-1".into(),
            access_key_id: server.access_key_id().into(),
            secret_access_key: server.secret_access_key().into(),
            buckets: ["source".into(), "target".into()],
        }
    }

    /// From the variables of `make conformance`.
    pub fn from_env() -> Self {
        let given = |name: &str| env::var(format!("CONFORMANCE_{name}")).ok().filter(|value| !value.is_empty());
        let or = |name: &str, otherwise: &str| given(name).unwrap_or_else(|| otherwise.to_owned());
        let store = match or("PROVIDER", "generic").as_str() {
            "moto" => Kind::Moto,
            word => {
                let provider = Provider::ALL.into_iter().find(|provider| provider.as_str() == word);
                Kind::Of(provider.unwrap_or_else(|| panic!("PROVIDER={word}: not one of moto, {}", words())))
            }
        };
        Self {
            store,
            endpoint: given("ENDPOINT").expect("make conformance ENDPOINT=http://… says where the store is"),
            region: or("REGION", "us-east-1"),
            access_key_id: or("ACCESS_KEY_ID", "test"),
            secret_access_key: or("SECRET_ACCESS_KEY", "test"),
            buckets: [or("BUCKET_A", "copyhold-conformance-a"), or("BUCKET_B", "copyhold-conformance-b")],
        }
    }

    /// A client that is none of ours: what it writes and reads is what the engine is held against.
    pub fn client(&self) -> Client {
        let (id, secret) = (&self.access_key_id, &self.secret_access_key);
        let config = Builder::new()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .endpoint_url(&self.endpoint)
            .force_path_style(true)
            .region(Region::new(self.region.clone()))
            .credentials_provider(Credentials::new(id, secret, None, None, "conformance"))
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        Client::from_conf(config)
    }

    /// Returns the engine's client of one side: 0 the source, 1 the target. It accepts no part larger than [`PART_BYTES`].
    pub async fn store(&self, side: usize) -> Store {
        let replica = config::ReplicaSettings {
            name: replica(["source", "target"][side]),
            endpoint: self.endpoint.parse().unwrap(),
            region: self.region.clone(),
            bucket: self.buckets[side].clone(),
            path_style: true,
            credentials: config::Credentials::Keys {
                access_key_id: self.access_key_id.as_str().into(),
                secret_access_key: self.secret_access_key.as_str().into(),
            },
            existing: None,
            read: true,
            storage_class: None,
            provider: match self.store {
                Kind::InMemory | Kind::Moto => Provider::Generic,
                Kind::Of(provider) => provider,
            },
            facts: config::StoreOverrides { max_put_bytes: Some(PART_BYTES), ..config::StoreOverrides::default() },
            trust: config::Trust::default(),
            proxy: None,
            surroundings: config::NetworkEnvironment::default(),
        };
        Store::connect(&(&replica).into(), 4).await.unwrap()
    }
}

fn words() -> String {
    Provider::ALL.map(Provider::as_str).join(", ")
}
