"""The backends: ``eager`` runs the reference, each other one a namespace of registered operators."""
