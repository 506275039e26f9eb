use aws_sdk_s3::types::BucketVersioningStatus;

use super::{Known, Operation, Reason, Store, progress::Progress};

impl Store {
    /// Whether an overwrite leaves the older version behind, which costs, and under an object lock stays for years.
    ///
    /// Asked once. A bucket that does not say is taken for one that keeps them: to look before writing again costs a
    /// request, a version that nobody can remove costs for as long as it is locked.
    pub async fn keeps_versions(&self) -> bool {
        match self.profile.keeps_versions {
            Known::Yes => return true,
            Known::No => return false,
            Known::Unknown => {}
        }
        *self.versioned.get_or_init(|| self.is_versioned()).await
    }

    async fn is_versioned(&self) -> bool {
        let call = self.client.get_bucket_versioning().bucket(&self.bucket);
        let answer = self.call(Operation::GetBucketVersioning, &Progress::default(), call.send()).await;
        match answer {
            Ok(answer) => {
                matches!(answer.status, Some(BucketVersioningStatus::Enabled | BucketVersioningStatus::Suspended))
            }
            // A store that does not know the question knows no versions.
            Err(error) => error.reason() != Reason::Unsupported,
        }
    }
}
