# The watchdog: pgvigil says that it gets on with its work, once a minute. What says nothing is what is wrong, so that missing
# data is what this alarm is for. It lives outside of pgvigil, and needs [cloudwatch.publish].
resource "aws_cloudwatch_metric_alarm" "heartbeat" {
  alarm_name          = "${var.name}-heartbeat"
  alarm_description   = "pgvigil has not got on with its work for five minutes: nobody watches the databases."
  namespace           = "pgvigil"
  metric_name         = "Heartbeat"
  statistic           = "SampleCount"
  period              = 60
  evaluation_periods  = 5
  threshold           = 1
  comparison_operator = "LessThanThreshold"
  treat_missing_data  = "breaching"
  alarm_actions       = [aws_sns_topic.alerts.arn]
  ok_actions          = [aws_sns_topic.alerts.arn]
}

# A lag that is not known is not told: it is for the watchdog, and for pgvigil's own rules.
resource "aws_cloudwatch_metric_alarm" "lag" {
  for_each = var.watched_replicas

  alarm_name          = "${var.name}-lag-${var.watched_cluster}-${each.key}"
  alarm_description   = "${each.key} is more than ${var.most_lag_seconds} s behind its primary."
  namespace           = "pgvigil"
  metric_name         = "replay_lag_seconds"
  statistic           = "Minimum"
  period              = 60
  evaluation_periods  = 3
  datapoints_to_alarm = 3
  threshold           = var.most_lag_seconds
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "ignore"
  alarm_actions       = [aws_sns_topic.alerts.arn]
  ok_actions          = [aws_sns_topic.alerts.arn]

  dimensions = {
    cluster  = var.watched_cluster
    instance = each.key
  }
}
