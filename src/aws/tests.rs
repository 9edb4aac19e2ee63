//! Against a server of our own on loopback.

use std::collections::VecDeque;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::clock;

/// A service that gives these answers, one for each request, and the last of them again and again. Text of status line and body.
pub(super) async fn service(answers: &[(&str, &str)]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let mut answers: VecDeque<String> = answers
        .iter()
        .map(|(status, body)| {
            let length = body.len();
            format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
        })
        .collect();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                let n_read = stream.read(&mut buffer).await.unwrap_or(0);
                request.extend_from_slice(&buffer[..n_read]);
            }
            let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
            let _ = stream.write_all(answer.unwrap_or_default().as_bytes()).await;
        }
    });
    url
}

pub(super) fn aws(endpoint_url: String) -> Aws {
    Aws::new(Config { endpoint_url: Some(endpoint_url), ..Config::default() })
}

pub(super) fn requests(aws: &Aws, api: &str, outcome: &str) -> u64 {
    aws.metrics().requests(api, outcome)
}

async fn describe(aws: &Aws) -> Result<(), Fault> {
    let asked = aws.rds(&Place::region("eu-west-1")).await.describe_db_instances().send().await;
    asked.map(drop).map_err(|error| Fault::of("rds:DescribeDBInstances", &error))
}

const NONE: (&str, &str) = (
    "200 OK",
    "<DescribeDBInstancesResponse xmlns=\"http://rds.amazonaws.com/doc/2014-10-31/\"><DescribeDBInstancesResult>\
     <DBInstances></DBInstances></DescribeDBInstancesResult></DescribeDBInstancesResponse>",
);
const THROTTLED: (&str, &str) = (
    "400 Bad Request",
    "<ErrorResponse><Error><Code>Throttling</Code><Message>Rate exceeded</Message></Error></ErrorResponse>",
);
const DENIED: (&str, &str) = (
    "403 Forbidden",
    "<ErrorResponse><Error><Code>AccessDenied</Code><Message>User: arn:aws:iam::123456789012:user/eve is not authorized to \
     perform: rds:DescribeDBInstances because no identity-based policy allows it</Message></Error></ErrorResponse>",
);

#[tokio::test]
async fn every_attempt_is_counted_by_how_it_ended() {
    let aws = aws(service(&[THROTTLED, NONE]).await);
    assert_eq!(describe(&aws).await, Ok(()));
    let count = |outcome| requests(&aws, "rds:DescribeDBInstances", outcome);
    assert_eq!((count("throttled"), count("ok")), (1, 1));
}

#[tokio::test]
async fn what_is_denied_names_the_action_and_is_no_trouble_of_the_service() {
    let aws = aws(service(&[DENIED]).await);
    for _ in 0..4 {
        let fault = describe(&aws).await.expect_err("denied");
        assert_eq!(fault.kind, Kind::Denied { action: "rds:DescribeDBInstances".to_owned() });
        assert_eq!(
            fault.reason,
            "AWS denies rds:DescribeDBInstances to arn:aws:iam::123456789012:user/eve: add the action to its policy"
        );
    }
    let [view] = aws.circuits(clock::now()).try_into().expect("one service");
    assert_eq!((view.state, view.circuit), (State::Closed, Circuit::default()));
}

#[tokio::test]
async fn a_service_that_does_not_answer_is_left_alone_with_a_reason_and_the_others_are_not() {
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let nowhere = format!("http://{}", closed.local_addr().expect("an address"));
    drop(closed);
    let config =
        Config { rds_endpoint_url: Some(nowhere), endpoint_url: Some(service(&[NONE]).await), ..Config::default() };
    let aws = Aws::new(config);
    // Its own attempts take a second each time: what it would say of the last one is said at once here.
    for _ in 0..2 {
        let asked = aws.watch(Service::Rds, &Place::region("eu-west-1"), true);
        asked.with_circuit(|circuit| circuit.failed(clock::now(), "it cannot be reached".to_owned(), 1.0));
    }
    assert_eq!(describe(&aws).await.map_err(|fault| fault.kind), Err(Kind::Unreachable));
    let fault = describe(&aws).await.expect_err("it is left alone");
    assert_eq!(fault.kind, Kind::Paused);
    assert!(fault.reason.ends_with("since it failed: it cannot be reached"), "{fault}");
    let [view] = aws.circuits(clock::now()).try_into().expect("one service");
    assert_eq!((view.service, view.state), (Service::Rds, State::Open));
    let sts = aws.sts(&Place::region("eu-west-1")).await.get_caller_identity().send().await;
    assert_ne!(sts.map_err(|error| Fault::of("sts:GetCallerIdentity", &error).kind).err(), Some(Kind::Paused));
}

#[test]
fn an_endpoint_is_a_url() {
    let read = |text: &str| toml::from_str::<Config>(text).map_err(|error| error.message().to_owned());
    assert_eq!(read("use_fips = true").map(|config| config.use_fips), Ok(Some(true)));
    let error = read("rds_endpoint_url = \"rds.local\"").expect_err("no scheme");
    assert_eq!(error, "\"rds.local\" must begin with http:// or https://");
    assert!(read("endpoint = \"x\"").is_err());
}
