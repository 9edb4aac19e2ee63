data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

data "aws_iam_policy_document" "tasks" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.current.account_id]
    }
  }
}

# What pgvigil itself may do. One statement a feature: take away what is not used.
resource "aws_iam_role" "task" {
  name               = "${var.name}-task"
  assume_role_policy = data.aws_iam_policy_document.tasks.json
}

data "aws_iam_policy_document" "task" {
  #checkov:skip=CKV_AWS_356:Describing instances and reading metrics know no narrower resource
  statement {
    sid       = "Alerts"
    actions   = ["sns:Publish"]
    resources = [aws_sns_topic.alerts.arn]
  }

  statement {
    sid       = "AlertsKey"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.this.arn]
  }

  statement {
    sid = "Discovery"
    actions = [
      "rds:DescribeDBClusters",
      "rds:DescribeDBInstances",
      "rds:DescribeEvents",
      "rds:DescribePendingMaintenanceActions",
      "rds:ListTagsForResource",
    ]
    resources = ["*"]
  }

  statement {
    sid       = "CloudWatchIn"
    actions   = ["cloudwatch:GetMetricData", "elasticache:DescribeReplicationGroups"]
    resources = ["*"]
  }

  statement {
    sid       = "CloudWatchOut"
    actions   = ["cloudwatch:PutMetricData"]
    resources = ["*"]

    condition {
      test     = "StringEquals"
      variable = "cloudwatch:namespace"
      values   = ["pgvigil"]
    }
  }

  dynamic "statement" {
    for_each = length(var.database_secret_arns) > 0 ? [1] : []

    content {
      sid       = "Credentials"
      actions   = ["secretsmanager:GetSecretValue"]
      resources = var.database_secret_arns
    }
  }

  dynamic "statement" {
    for_each = length(var.secret_kms_key_arns) > 0 ? [1] : []

    content {
      sid       = "CredentialsKey"
      actions   = ["kms:Decrypt"]
      resources = var.secret_kms_key_arns
    }
  }

  dynamic "statement" {
    for_each = length(var.iam_database_users) > 0 ? [1] : []

    content {
      sid       = "Tokens"
      actions   = ["rds-db:connect"]
      resources = var.iam_database_users
    }
  }

  dynamic "statement" {
    for_each = length(var.role_arns) > 0 ? [1] : []

    content {
      sid       = "OtherAccounts"
      actions   = ["sts:AssumeRole"]
      resources = var.role_arns
    }
  }
}

resource "aws_iam_role_policy" "task" {
  name   = var.name
  role   = aws_iam_role.task.id
  policy = data.aws_iam_policy_document.task.json
}

# What ECS does to start it: fetch the image, write logs, read the secrets that become variables.
resource "aws_iam_role" "execution" {
  name               = "${var.name}-execution"
  assume_role_policy = data.aws_iam_policy_document.tasks.json
}

resource "aws_iam_role_policy_attachment" "execution" {
  role       = aws_iam_role.execution.name
  policy_arn = "arn:${data.aws_partition.current.partition}:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
}

data "aws_iam_policy_document" "execution" {
  count = length(var.secrets) > 0 ? 1 : 0

  statement {
    actions   = ["secretsmanager:GetSecretValue"]
    resources = values(var.secrets)
  }

  dynamic "statement" {
    for_each = length(var.secret_kms_key_arns) > 0 ? [1] : []

    content {
      actions   = ["kms:Decrypt"]
      resources = var.secret_kms_key_arns
    }
  }
}

resource "aws_iam_role_policy" "execution" {
  count = length(var.secrets) > 0 ? 1 : 0

  name   = "secrets"
  role   = aws_iam_role.execution.id
  policy = data.aws_iam_policy_document.execution[0].json
}
