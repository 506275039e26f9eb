//! The order of a demo: sets up a sandbox, copies and compares everything, and runs a light load until it is stopped.

use bytesize::ByteSize;
use tokio_util::sync::CancellationToken;

use super::{
    ProgressDisplay, Request, Summary,
    application::Application,
    background_load,
    daemons::Daemons,
    environment::Environment,
    memory,
    objects::{Object, objects},
    reader::Reader,
    scenario::Scenario,
    table_view::TableView,
};

/// Runs a demo in its own sandbox, which it removes afterwards.
pub(super) async fn run(
    request: Request,
    display: &dyn ProgressDisplay,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Summary>> {
    let objects = objects(request.objects, request.largest_bytes, request.seed);
    let bytes = |bytes: u64| ByteSize::b(bytes).display().iec().to_string();
    let own: u64 = objects.iter().map(Object::size_bytes).sum();
    display.say(&format!(
        "{} objects, {}, three times in memory: {} (seed {})",
        objects.len(),
        bytes(own),
        bytes(memory::of(&objects)),
        request.seed
    ));
    memory::check(&objects)?;

    let environment = Environment::setup(request.program.clone()).await?;
    let played = on(&environment, &request, &objects, display, stop).await.map_err(|error| environment.or_full(error));
    // Also after an error: all started processes must end before this function returns.
    let struck = environment.teardown().await;
    let summary = played?;
    struck?;
    Ok(summary)
}

async fn on(
    environment: &Environment,
    request: &Request,
    objects: &[Object],
    display: &dyn ProgressDisplay,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Summary>> {
    let scenario = Scenario {
        environment,
        request,
        objects,
        display,
        daemons: Daemons::default(),
        application: Application::new(environment)?,
        rows: TableView::new(environment)?,
        reader: Reader::new(environment)?,
    };
    let played = until(&scenario, stop).await;
    environment.server().clear_faults();
    scenario.daemons.stop(environment).await;
    scenario.application.close().await;
    scenario.rows.close().await;
    played
}

async fn until(scenario: &Scenario<'_>, stop: &CancellationToken) -> anyhow::Result<Option<Summary>> {
    let Some(summary) = stop.run_until_cancelled(Box::pin(scenario.copy_and_compare())).await.transpose()? else {
        return Ok(None);
    };
    scenario.display.sum_up(&summary);
    if !scenario.request.once {
        stop.run_until_cancelled(Box::pin(background_load::run(scenario))).await.transpose()?;
    }
    Ok(Some(summary))
}
