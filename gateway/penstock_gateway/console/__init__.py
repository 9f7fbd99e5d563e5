"""The console: pages for operators on the admin port, drawn on the server. Read `app.Console`."""
