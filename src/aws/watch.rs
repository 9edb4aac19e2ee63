//! Watches every question to AWS, from inside the client: counts attempts, bounds answers, and leaves a service alone that does
//! not answer.

use aws_sdk_sns::config::interceptors::{
    BeforeDeserializationInterceptorContextMut, BeforeSerializationInterceptorContextRef,
    FinalizerInterceptorContextRef,
};
use aws_sdk_sns::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context;
use aws_smithy_runtime_api::client::orchestrator::{Metadata, OrchestratorError};
use aws_smithy_types::body::SdkBody;
use http_body_util::Limited;

use super::fault::{Kind, Paused, code_of};
use super::{Aws, Place, Service, lock};
use crate::clock;
use crate::core::circuit::Circuit;

/// More than any answer of AWS: whatever else answers in its place must not fill the memory.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Watch {
    pub aws: Aws,
    pub service: Service,
    pub place: Place,
    pub may_refuse: bool,
}

impl Watch {
    pub(super) fn with_circuit<T>(&self, change: impl FnOnce(&mut Circuit) -> T) -> T {
        change(lock(&self.aws.0.circuits).entry((self.service, self.place.clone())).or_default())
    }

    fn action(&self, cfg: &ConfigBag) -> String {
        format!("{}:{}", self.service.name(), cfg.load::<Metadata>().map_or("unknown", Metadata::name))
    }

    /// How it ended, and why in a word or two. `None`: AWS did as it was asked.
    fn trouble(&self, context: &FinalizerInterceptorContextRef<'_>, cfg: &ConfigBag) -> Option<(Kind, String)> {
        let error = context.output_or_error()?.err()?;
        let action = self.action(cfg);
        let Some(answer) = context.response().filter(|_| !error.is_connector_error() && !error.is_timeout_error())
        else {
            return Some(without_answer(error));
        };
        let status = answer.status().as_u16();
        let code = code_of(answer.headers().get("x-amzn-errortype"), answer.body().bytes().unwrap_or_default());
        let kind = Kind::of_answer(&action, status, &code);
        let reason = if code.is_empty() { format!("status {status}") } else { format!("{code} ({status})") };
        Some((kind, format!("{action}: {reason}")))
    }
}

fn without_answer(error: &OrchestratorError<context::Error>) -> (Kind, String) {
    if error.is_timeout_error() {
        return (Kind::Unreachable, "no answer in time".to_owned());
    }
    match error.as_connector_error() {
        Some(connector) if connector.is_timeout() => (Kind::Unreachable, "no answer in time".to_owned()),
        Some(_) => (Kind::Unreachable, "it cannot be reached".to_owned()),
        // What comes before the connection: above all, whose question it is.
        None => (Kind::Credentials, "no credentials".to_owned()),
    }
}

impl Intercept for Watch {
    fn name(&self) -> &'static str {
        "pgvigil"
    }

    fn read_before_execution(
        &self,
        _: &BeforeSerializationInterceptorContextRef<'_>,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if !self.may_refuse {
            return Ok(());
        }
        let now = clock::now();
        self.with_circuit(|circuit| {
            circuit.admit(now, fastrand::f64()).map_err(|next_at| {
                let reason = circuit.failing().map(|failing| failing.reason.clone()).unwrap_or_default();
                Paused { wait: next_at.duration_since(now), reason }.into()
            })
        })
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response_mut().body_mut();
        let whole = std::mem::replace(body, SdkBody::taken());
        *body = SdkBody::from_body_1_x(Limited::new(whole, MAX_ANSWER));
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let outcome = self.trouble(context, cfg).map_or("ok", |(kind, _)| kind.name());
        self.aws.0.metrics.asked(&self.action(cfg), outcome);
        Ok(())
    }

    fn read_after_execution(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(Err(error)) = context.output_or_error()
            && error.is_interceptor_error()
        {
            return Ok(());
        }
        let (service, place) = (self.service.name(), &self.place);
        let trouble = self.trouble(context, cfg).filter(|(kind, _)| kind.is_trouble());
        match trouble {
            Some((_, reason)) => {
                let opened = self.with_circuit(|circuit| circuit.failed(clock::now(), reason.clone(), fastrand::f64()));
                if opened {
                    tracing::warn!(service, %place, %reason, "AWS {service} fails: {reason}; it is asked less often until it answers");
                }
            }
            None => {
                if self.with_circuit(Circuit::succeeded) {
                    tracing::info!(service, %place, "AWS {service} answers again");
                }
            }
        }
        let is_open = self.with_circuit(|circuit| circuit.failing().is_some_and(|failing| failing.next_at.is_some()));
        let region = place.region.as_deref().unwrap_or_default();
        self.aws.0.metrics.circuit(service, region, place.account(), is_open);
        Ok(())
    }
}
