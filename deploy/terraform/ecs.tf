resource "aws_cloudwatch_log_group" "this" {
  name              = "/ecs/${var.name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = aws_kms_key.this.arn
}

resource "aws_security_group" "this" {
  name        = var.name
  description = "pgvigil: to the databases and AWS, from Prometheus"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_egress_rule" "databases" {
  count = var.database_security_group_id == null ? 0 : 1

  security_group_id            = aws_security_group.this.id
  description                  = "PostgreSQL"
  ip_protocol                  = "tcp"
  from_port                    = var.database_port
  to_port                      = var.database_port
  referenced_security_group_id = var.database_security_group_id
}

resource "aws_vpc_security_group_egress_rule" "aws" {
  security_group_id = aws_security_group.this.id
  description       = "The APIs of AWS"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = "0.0.0.0/0"
}

resource "aws_vpc_security_group_ingress_rule" "databases" {
  count = var.database_security_group_id == null ? 0 : 1

  security_group_id            = var.database_security_group_id
  description                  = "pgvigil"
  ip_protocol                  = "tcp"
  from_port                    = var.database_port
  to_port                      = var.database_port
  referenced_security_group_id = aws_security_group.this.id
}

resource "aws_vpc_security_group_ingress_rule" "scraper" {
  count = var.scraper_security_group_id == null ? 0 : 1

  security_group_id            = aws_security_group.this.id
  description                  = "Metrics and pages"
  ip_protocol                  = "tcp"
  from_port                    = 9732
  to_port                      = 9732
  referenced_security_group_id = var.scraper_security_group_id
}

locals {
  environment = merge({
    PGVIGIL_SERVER__LISTEN                 = "0.0.0.0:9732"
    PGVIGIL_SNS_TOPIC_ARN                  = aws_sns_topic.alerts.arn
    PGVIGIL_CLOUDWATCH__PUBLISH__NAMESPACE = "pgvigil"
    PGVIGIL_LOG_FORMAT                     = "json"
  }, var.environment)
}

resource "aws_ecs_task_definition" "this" {
  family                   = var.name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = 256
  memory                   = 512
  task_role_arn            = aws_iam_role.task.arn
  execution_role_arn       = aws_iam_role.execution.arn

  # What must outlive a restart. It is lost with the task: an alert that still fires is then told again.
  volume {
    name = "state"
  }

  container_definitions = jsonencode([{
    name                   = "pgvigil"
    image                  = var.image
    essential              = true
    readonlyRootFilesystem = true
    environment            = [for name, value in local.environment : { name = name, value = value }]
    secrets                = [for name, arn in var.secrets : { name = name, valueFrom = arn }]
    portMappings           = [{ containerPort = 9732, protocol = "tcp" }]
    mountPoints            = [{ sourceVolume = "state", containerPath = "/var/lib/pgvigil", readOnly = false }]
    stopTimeout            = 15
    logConfiguration = {
      logDriver = "awslogs"
      options = {
        "awslogs-group"         = aws_cloudwatch_log_group.this.name
        "awslogs-region"        = data.aws_region.current.region
        "awslogs-stream-prefix" = "pgvigil"
      }
    }
  }])
}

resource "aws_ecs_service" "this" {
  name            = var.name
  cluster         = var.cluster_arn
  task_definition = aws_ecs_task_definition.this.arn
  desired_count   = 1
  launch_type     = "FARGATE"

  # Never two at once: each would be billed for what it asks of CloudWatch.
  deployment_minimum_healthy_percent = 0
  deployment_maximum_percent         = 100

  network_configuration {
    subnets          = var.subnet_ids
    security_groups  = [aws_security_group.this.id]
    assign_public_ip = false
  }
}
