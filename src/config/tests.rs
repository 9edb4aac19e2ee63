use super::*;

const FLEET: &str = r#"
[[cluster]]
name = "orders"

  [[cluster.target]]
  name = "orders-primary"
  dsn = "postgresql://pgvigil:hunter2@primary.example/postgres"

  [[cluster.target]]
  name = "orders-replica-1"
  dsn = "postgresql://pgvigil:hunter2@replica.example/postgres"
"#;

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Loads `text` as a file, with these variables. Errors come with the file's path as `pgvigil.toml`.
fn load_text(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pgvigil.toml");
    std::fs::write(&path, text).unwrap();
    let overrides = Overrides::default();
    let environment = environment(variables);
    let inputs = Inputs { file: Some(&path), environment: &environment, overrides: &overrides };
    load(&inputs).map_err(|error| error.to_string().replace(&format!("{}/", directory.path().display()), ""))
}

fn load_environment(variables: &[(&str, &str)]) -> Result<Loaded, String> {
    let inputs = Inputs { file: None, environment: &environment(variables), overrides: &Overrides::default() };
    load(&inputs).map_err(|error| error.to_string())
}

#[test]
fn look() {
    for head in [
        "[poll]\nintervall = \"1s\"",
        "[poll]\ninterval = 5",
        "[poll]\nlisten=\"x\"",
        "[server]\nlisten = \"x\"",
        "[sever]",
        "polls = 1",
        "[poll]\ninterval = \"5x\"",
        "[poll]\ninterval = \"${NOPE}\"",
        "[poll]\ninterval = \"${X}\"",
        "[poll]\ninterval = \"file:nope\"",
        "[health]\non_unknown = \"fial\"",
        "[statements]\nenabled = \"yes\"",
        "[[rule]]\nname=\"a\"",
        "[[rule]]\nname=\"a\"\nwhen=\"x\"\ncluster=\"order\"",
        "[[notify]]\ntype=\"sms\"",
        "[[notify]]\ntype=\"sns\"\ntopic=\"sms\"",
        "[[notify]]\ntype=\"sns\"\ntopic_arn=3",
        "[[notify]]\n",
        "[poll]\ninterval = \"postgres://u:hunter2@h/x\"",
        "x = \"hunter2",
        "[poll",
        "[store]\npath=\"x\"",
        "poll = 3",
        "[rule]\nname=\"x\"",
    ] {
        println!("{head:?}\n    {}", load_text(&format!("{head}\n{FLEET}"), &[("X", "hunter2")]).unwrap_err());
    }
    println!("{:?}", load_text("", &[]));
    println!("{:?}", load_text("[[cluster]]\nname='a b'", &[]));
    println!(
        "{:?}",
        load_text(
            "[[cluster]]\nname='a'\n[[cluster]]\nname='a'\ntarget=[{name='x',dsn='hunter2'},{name='x',dsn='a=b'}]",
            &[]
        )
    );
    println!("{:?}", load_environment(&[]));
    println!("{:?}", load_text(FLEET, &[("PGVIGIL_POLL__INTERVALL", "5s")]));
    println!("{:?}", load_text(FLEET, &[("PGVIGIL_POLL__INTERVAL", "5x")]));
    println!("{:?}", load_text(FLEET, &[("PGVIGIL_LISTEN", "5x")]));
    println!("{:?}", load_text(FLEET, &[("PGVIGIL_SERVER__LISTEN", "0.0.0.0:80"), ("DATABASE_URL", "x")]));
    println!(
        "{:?}",
        load_environment(&[
            ("DATABASE_URL", "postgres://a"),
            ("DATABASE_READ_REPLICA_URL", "postgres://b,c/x,postgresql://d"),
            ("PGVIGIL_SNS_TOPIC_ARN", "arn:aws:sns:x:1:y")
        ])
    );
}
