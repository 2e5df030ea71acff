"""Published and derived statements as checks: hypotheses, prediction, measurement, verdict."""
