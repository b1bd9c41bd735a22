"""Tables in spreadsheet workbooks."""
