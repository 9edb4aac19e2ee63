# As many readers of an Aurora cluster as their connections take, by pgvigil's own count. By lag it should not be: a reader more
# does not make the others faster.
resource "aws_appautoscaling_target" "readers" {
  count = var.scaled_aurora_cluster == null ? 0 : 1

  service_namespace  = "rds"
  scalable_dimension = "rds:cluster:ReadReplicaCount"
  resource_id        = "cluster:${var.scaled_aurora_cluster}"
  min_capacity       = 1
  max_capacity       = 5
}

resource "aws_appautoscaling_policy" "readers" {
  count = var.scaled_aurora_cluster == null ? 0 : 1

  name               = "${var.name}-connections"
  service_namespace  = aws_appautoscaling_target.readers[0].service_namespace
  scalable_dimension = aws_appautoscaling_target.readers[0].scalable_dimension
  resource_id        = aws_appautoscaling_target.readers[0].resource_id
  policy_type        = "TargetTrackingScaling"

  target_tracking_scaling_policy_configuration {
    target_value       = var.connections_per_reader
    scale_in_cooldown  = 900
    scale_out_cooldown = 300

    customized_metric_specification {
      namespace   = "pgvigil"
      metric_name = "connections"
      statistic   = "Average"
      unit        = "Count"

      dimensions {
        name  = "cluster"
        value = var.watched_cluster
      }

      dimensions {
        name  = "instance"
        value = var.scaled_reader
      }
    }
  }
}
