"""Who is out there, and which way to go: documents, policies, guards, paths. All pure."""
