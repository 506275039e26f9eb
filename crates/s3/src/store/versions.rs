use aws_sdk_s3::types::BucketVersioningStatus;

use super::{Operation, Reason, Store, StoreError, Tristate, stall_timeout::Progress, xml_document::WholeDocument};

/// What the bucket says of older versions.
pub(super) enum Versioning {
    Enabled,
    /// Old versions stay, and each of our objects is one.
    Suspended,
    Off,
    /// A store that does not know the question knows no versions.
    Unsupported(StoreError),
}

impl Store {
    /// Whether an overwrite leaves the older version behind, which costs, and under an object lock stays for years.
    ///
    /// Asked once. A bucket that does not say is taken for one that keeps them: to look before writing again costs a
    /// request, a version that nobody can remove costs for as long as it is locked.
    pub async fn keeps_versions(&self) -> bool {
        match self.profile.keeps_versions {
            Tristate::Yes => return true,
            Tristate::No => return false,
            Tristate::Unknown => {}
        }
        *self.versioned.get_or_init(|| self.is_versioned()).await
    }

    async fn is_versioned(&self) -> bool {
        match self.versioning().await {
            Ok(Versioning::Enabled | Versioning::Suspended) | Err(_) => true,
            Ok(Versioning::Off | Versioning::Unsupported(_)) => false,
        }
    }

    pub(super) async fn versioning(&self) -> Result<Versioning, StoreError> {
        let call = self.client.get_bucket_versioning().bucket(&self.bucket);
        let call = call.customize().interceptor(WholeDocument::VERSIONING);
        match self.call(Operation::GetBucketVersioning, &Progress::default(), call.send()).await {
            Ok(answer) => Ok(match answer.status {
                Some(BucketVersioningStatus::Enabled) => Versioning::Enabled,
                Some(BucketVersioningStatus::Suspended) => Versioning::Suspended,
                _ => Versioning::Off,
            }),
            Err(error) if error.reason() == Reason::Unsupported => Ok(Versioning::Unsupported(error)),
            Err(error) => Err(error),
        }
    }
}
