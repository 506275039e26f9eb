use std::{fmt::Write as _, process::Stdio};

use anyhow::{Context as _, bail};
use copyhold_sandbox::s3::{BucketHandle, BucketOptions, S3Server};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use super::process;

/// The buckets of three replicas in one S3 server.
pub struct Stores {
    pub endpoint: String,
    pub access_key_id: String,
    pub secret_access_key: String,
    /// The replicas, the source first.
    replicas: Vec<&'static str>,
    server: Server,
}

enum Server {
    Here(S3Server),
    /// Killed when dropped.
    Elsewhere(Child),
}

impl Stores {
    pub const REPLICAS: [&str; 3] = ["b2", "wasabi", "scw"];

    /// Returns the name of a replica's bucket.
    pub fn bucket_of(replica: &str) -> String {
        format!("photos-{replica}")
    }

    /// Starts stores in this process, so that calls can be counted.
    pub async fn here() -> anyhow::Result<Self> {
        Self::here_as(&Self::REPLICAS, &BucketOptions::default()).await
    }

    /// Starts stores in this process, with a source, any number of targets, and these bucket options.
    pub async fn here_as(replicas: &[&'static str], options: &BucketOptions) -> anyhow::Result<Self> {
        let server = S3Server::start().await?;
        for replica in replicas {
            server.create_bucket(&Self::bucket_of(replica), options.clone());
        }
        Ok(Self {
            replicas: replicas.to_vec(),
            endpoint: server.endpoint(),
            access_key_id: server.access_key_id().to_owned(),
            secret_access_key: server.secret_access_key().to_owned(),
            server: Server::Here(server),
        })
    }

    /// Starts stores in their own process, which keep no bytes. `b2` has these objects, each `KEY:SEED:SIZE`.
    pub async fn elsewhere(synthetic: impl IntoIterator<Item = String>) -> anyhow::Result<Self> {
        let bucket = Self::bucket_of("b2");
        Self::launch(synthetic.into_iter().flat_map(|object| ["--synthetic".into(), format!("{bucket}/{object}")]))
            .await
    }

    /// Starts stores in their own process, with `object-1` to `object-{objects}`, each of other bytes.
    pub async fn elsewhere_numbered(objects: u32, bytes: u64) -> anyhow::Result<Self> {
        Self::launch(["--numbered".into(), format!("{}:{objects}:{bytes}", Self::bucket_of("b2"))]).await
    }

    /// Starts stores with a generated listing of this many objects, in folders of this many, whose objects cannot be
    /// read.
    pub async fn elsewhere_listed(objects: u64, per_folder: u64) -> anyhow::Result<Self> {
        Self::launch(["--generated".into(), format!("{}:{objects}:{per_folder}", Self::bucket_of("b2"))]).await
    }

    async fn launch(objects: impl IntoIterator<Item = String>) -> anyhow::Result<Self> {
        let mut command = Command::new(process::program());
        let buckets = Self::REPLICAS.map(Self::bucket_of);
        command.args(["sandbox-s3", "--digest-only", "--buckets", &buckets.join(",")]).args(objects);
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let output = process.stdout.take().context("no pipe to the stores")?;
        let mut line = String::new();
        if BufReader::new(output).read_line(&mut line).await? == 0 {
            bail!("the stores ended: {}", process.wait().await?);
        }
        let word = |name: &str| {
            let value = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            value.map(str::to_owned).with_context(|| format!("the stores did not say their {name}"))
        };
        Ok(Self {
            replicas: Self::REPLICAS.to_vec(),
            endpoint: word("endpoint")?,
            access_key_id: word("access_key_id")?,
            secret_access_key: word("secret_access_key")?,
            server: Server::Elsewhere(process),
        })
    }

    /// Returns their CPU time so far, which is unknown if they are in this process.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        match &self.server {
            Server::Here(_) => bail!("the stores are in this process"),
            Server::Elsewhere(process) => process::cpu_seconds(process.id().context("the stores ended")?),
        }
    }

    /// Returns a handle of the bucket; only for stores in this process.
    pub fn bucket(&self, replica: &str) -> anyhow::Result<BucketHandle> {
        match &self.server {
            Server::Here(server) => Ok(server.bucket(&Self::bucket_of(replica))),
            Server::Elsewhere(_) => bail!("the bucket of {replica} is in another process"),
        }
    }

    /// Replaces a replica's bucket by an empty one with these options; only for stores in this process.
    pub fn anew(&self, replica: &str, options: BucketOptions) -> anyhow::Result<()> {
        match &self.server {
            Server::Here(server) => {
                server.create_bucket(&Self::bucket_of(replica), options);
                Ok(())
            }
            Server::Elsewhere(_) => bail!("the bucket of {replica} is in another process"),
        }
    }

    /// Puts `object-1` to `object-{objects}` into `b2`, each of other bytes.
    pub fn fill(&self, objects: u32, bytes: u64) -> anyhow::Result<()> {
        let bucket = self.bucket("b2")?;
        for i in 1..=objects {
            bucket.put(&format!("object-{i}"), copyhold_sandbox::s3::synthetic::bytes(u64::from(i), 0..bytes));
        }
        Ok(())
    }

    /// Returns the configuration of a daemon that copies between them.
    pub fn configuration(&self, database: &str, settings: &str) -> anyhow::Result<String> {
        let mut text = format!("primary = \"b2\"\n[database]\nurl = \"{database}\"\n");
        for replica in &self.replicas {
            write!(
                text,
                "[replicas.{replica}]\nendpoint = \"{}\"\nregion = \"us-east-1\"\nbucket = \"{}\"\npath_style = true\n\
                 access_key_id = \"{}\"\nsecret_access_key = \"{}\"\n",
                self.endpoint,
                Self::bucket_of(replica),
                self.access_key_id,
                self.secret_access_key
            )?;
        }
        write!(text, "[http]\nlisten = \"127.0.0.1:0\"\n[log]\nformat = \"text\"\n{settings}")?;
        Ok(text)
    }

    /// Stops the stores and waits for that.
    pub async fn end(self) -> anyhow::Result<()> {
        match self.server {
            Server::Here(server) => server.stop().await,
            Server::Elsewhere(mut process) => process.kill().await?,
        }
        Ok(())
    }
}
