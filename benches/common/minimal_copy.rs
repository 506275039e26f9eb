use anyhow::Context as _;
use bytes::BytesMut;
use copyhold::config::Config;
use copyhold_core::domain::{Content, ContentHash, ObjectKey, ReplicaName};
use copyhold_s3::store::{Md5, Store};
use md5::{Digest as _, Md5 as Hasher};

/// The minimal cost of a copy: the same client makes the same requests with the same hashes, and nothing else.
pub struct MinimalCopier {
    source: Store,
    targets: [Store; 2],
}

impl MinimalCopier {
    /// Copies the objects, `copies` of them at once.
    pub async fn connect(config: &Config, copies: usize) -> anyhow::Result<Self> {
        let store = async |name: &str| {
            let replica = config.replica(&ReplicaName::new(name)?).context("a replica of the stage")?;
            anyhow::Ok(Store::connect(&replica.into(), copies).await?)
        };
        Ok(Self { source: store("b2").await?, targets: [store("wasabi").await?, store("scw").await?] })
    }

    /// Copies one object with one GET, then two PUTs at the same time.
    pub async fn copy(&self, key: &ObjectKey) -> anyhow::Result<Content> {
        let mut get = self.source.get(key, None, None).await?;
        let mut bytes = BytesMut::new();
        while let Some(frame) = get.body.next().await? {
            bytes.extend_from_slice(&frame);
        }
        let bytes = bytes.freeze();
        let md5 = Md5(Hasher::digest(&bytes).into());
        let hash = ContentHash(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &bytes));
        let [one, other] = &self.targets;
        let metadata = &get.head.metadata;
        tokio::try_join!(one.put(key, &bytes, &md5, metadata), other.put(key, &bytes, &md5, metadata))?;
        Ok(Content { size_bytes: bytes.len() as u64, hash })
    }
}
