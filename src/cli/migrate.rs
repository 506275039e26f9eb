use super::{Verdict, logging, show};
use crate::{
    config::Config,
    queue::{self, SCHEMA_VERSION},
};

pub(super) async fn run(config: &Config) -> anyhow::Result<Verdict> {
    logging::start(&config.log)?;
    let done = queue::migrate(config).await?;
    let schema = &config.database.schema;
    if done.from_version < SCHEMA_VERSION {
        show::line(&format!("schema {schema}: version {} -> {SCHEMA_VERSION}", done.from_version))?;
    }
    for replica in &done.derived.columns_added {
        show::line(&format!("schema {schema}: added replica {replica}"))?;
    }
    for index in &done.derived.indexes_built {
        show::line(&format!("schema {schema}: built index {index}"))?;
    }
    show::line(&format!("schema {schema} is up to date"))?;
    Ok(Verdict::Good)
}
