use super::Verdict;

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_args: Args) -> anyhow::Result<Verdict> {
    anyhow::bail!("to come")
}
