"""What puts the parts together: settings, home, services, connection, session, runner, worker, store, results, command
line."""
