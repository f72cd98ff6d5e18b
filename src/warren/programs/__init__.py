"""Other people's programs, pointed at the proxy: by variables, or by a profile of their own."""
