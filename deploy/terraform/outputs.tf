output "topic_arn" {
  description = "Where alerts are told."
  value       = aws_sns_topic.alerts.arn
}

output "task_role_arn" {
  description = "Whom other accounts and databases must let in."
  value       = aws_iam_role.task.arn
}

output "security_group_id" {
  description = "Whom the databases must let in."
  value       = aws_security_group.this.id
}
