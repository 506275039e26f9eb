use aws_sdk_s3::types::BucketVersioningStatus;

use super::{Operation, Reason, Store, StoreError, Tristate, stall_timeout::Progress, xml_document::WholeDocument};

/// The bucket's versioning state.
pub(super) enum Versioning {
    Enabled,
    /// Old versions are kept, and each object of Copyhold is one.
    Suspended,
    Off,
    /// A store that does not support the request has no versions.
    Unsupported(StoreError),
}

impl Store {
    /// Returns whether an overwrite keeps the older version, which costs storage, and under an object lock stays for
    /// years.
    ///
    /// Requested once. A bucket that does not answer counts as one that keeps them: a check before writing again costs
    /// one request, while a version that cannot be deleted costs for as long as it is locked.
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
