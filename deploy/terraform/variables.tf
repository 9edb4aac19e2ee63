variable "name" {
  description = "What everything here is called."
  type        = string
  default     = "pgvigil"
}

variable "image" {
  description = "The image to run, with its tag or digest."
  type        = string
}

variable "vpc_id" {
  description = "Where the databases are."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets that reach the databases and AWS (a NAT gateway or VPC endpoints)."
  type        = list(string)
}

variable "cluster_arn" {
  description = "The ECS cluster to run in."
  type        = string
}

variable "environment" {
  description = "Configuration by environment: PGVIGIL_CLUSTER, PGVIGIL_CLOUDWATCH__ENABLED and so on. No secrets: those go into secrets."
  type        = map(string)
  default     = {}
}

variable "secrets" {
  description = "Variables whose values ECS takes from Secrets Manager: name to ARN, for example DATABASE_URL."
  type        = map(string)
  default     = {}
}

variable "database_secret_arns" {
  description = "Secrets that pgvigil itself reads and reads again after a rotation."
  type        = list(string)
  default     = []
}

variable "secret_kms_key_arns" {
  description = "Keys of those secrets, where they are not AWS' own."
  type        = list(string)
  default     = []
}

variable "iam_database_users" {
  description = "For auth = \"iam\": rds-db ARNs, arn:aws:rds-db:REGION:ACCOUNT:dbuser:DbiResourceId/USER."
  type        = list(string)
  default     = []
}

variable "role_arns" {
  description = "Roles of other accounts that pgvigil may take on."
  type        = list(string)
  default     = []
}

variable "database_security_group_id" {
  description = "The security group of the databases. It gets a rule that lets pgvigil in; none when null."
  type        = string
  default     = null
}

variable "scraper_security_group_id" {
  description = "Who may read the metrics and pages: the security group of Prometheus. Nobody when null."
  type        = string
  default     = null
}

variable "database_port" {
  description = "The port of the databases."
  type        = number
  default     = 5432
}

variable "watched_cluster" {
  description = "The name of the cluster, as pgvigil has it, that the alarm on lag is for."
  type        = string
}

variable "watched_replicas" {
  description = "Names of its replicas, as pgvigil has them."
  type        = set(string)
  default     = []
}

variable "most_lag_seconds" {
  description = "The alarm on lag goes off beyond this."
  type        = number
  default     = 60
}

variable "scaled_aurora_cluster" {
  description = "Identifier of an Aurora cluster whose readers are to be as many as their connections take; none when null."
  type        = string
  default     = null
}

variable "scaled_reader" {
  description = "The name, as pgvigil has it, of the reader whose connections decide."
  type        = string
  default     = null
}

variable "connections_per_reader" {
  description = "How many connections a reader should have."
  type        = number
  default     = 150
}

variable "log_retention_days" {
  description = "How long logs are kept."
  type        = number
  default     = 365
}
