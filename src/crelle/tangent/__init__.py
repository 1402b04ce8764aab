"""The tangent program and the analyses that read it. Nothing here imports a framework."""
